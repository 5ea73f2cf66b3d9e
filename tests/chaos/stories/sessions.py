"""The lives of sessions, agents and recordings."""

from collections.abc import Callable
from typing import Any

from sessions_app.models import Agent, Recording, Session
from tests.chaos.causes import Expected
from tests.chaos.product import Place, Product


def live_session(product: Product, place: Place) -> None:
    session = Session(id=product.id(), project=place.project, owner=place.owner, title="Live")
    for step, work in _life_of(product, session):
        product.do([product.step(place, session, step)], work, by_itself=True)


def live_session_at_once(product: Product, place: Place) -> None:
    session = Session(id=product.id(), project=place.project, owner=place.owner, title="Short")
    life = _life_of(product, session)
    product.do(
        [product.step(place, session, step) for step, _ in life],
        lambda: [work() for _, work in life],
    )


def _life_of(product: Product, session: Any) -> list[tuple[str, Callable[[], object]]]:
    return [
        ("started", lambda: session.save(force_insert=True)),
        ("paused", session.pause),
        ("resumed", session.resume),
        ("ended", session.end),
    ]


def live_agent(product: Product, place: Place) -> None:
    agent = Agent(
        id=product.id(), owner=place.owner, name="desktop", platform="linux", version="2.4.1"
    )
    reason = product.word()
    known = {"id": str(agent.id), "name": "desktop"}
    busy = {**known, "previousStatus": "ONLINE", "status": "BUSY"}
    idle = {**known, "previousStatus": "BUSY", "status": "ONLINE"}
    product.do([], lambda: agent.save(force_insert=True))
    steps: list[tuple[str, dict[str, Any], Callable[[], object]]] = [
        ("connected", {**known, "platform": "linux", "version": "2.4.1"}, agent.connect),
        ("status_changed", busy, agent.set_busy),
        ("status_changed", idle, agent.set_idle),
        ("disconnected", {**known, "reason": reason}, lambda: agent.disconnect(reason)),
    ]
    for event, data, work in steps:
        product.do([Expected(f"agent.{event}", str(place.owner.id), data)], work, by_itself=True)


def record(product: Product, place: Place) -> None:
    recording = Recording(id=product.id(), session=place.session, title="Screen")
    known = {"id": str(recording.id), "sessionId": str(place.session.id)}
    product.do([], lambda: recording.save(force_insert=True))
    if product.dice.random() < 0.3:
        error = product.word()
        failed = Expected("recording.failed", str(place.owner.id), {**known, "error": error})
        product.do([failed], lambda: recording.fail(error), by_itself=True)
    else:
        done, work = completion(product, recording, place.owner, size=1_000)
        product.do([done], work, by_itself=True)


def completion(
    product: Product, recording: Any, owner: Any, *, size: int
) -> tuple[Expected, Callable[[], object]]:
    """Return what a recording's completion causes, and the work."""
    url = f"https://cdn.example.com/{product.word()}.webm"
    data: dict[str, Any] = {"id": str(recording.id), "sessionId": str(recording.session_id)}
    data |= {"url": url, "thumbnailUrl": None, "duration": 7, "fileSize": size}
    return Expected("recording.completed", str(owner.id), data), lambda: recording.complete(
        url=url, duration_seconds=7, file_size_bytes=size
    )


STORIES = [(6, live_session), (3, live_session_at_once), (5, live_agent), (4, record)]
