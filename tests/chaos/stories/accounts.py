"""What only the platform hears of, and what comes from outside."""

from functools import partial
from typing import Any

from projects.models import Project, User
from sessions_app.models import Recording, Session
from tests.chaos.causes import Expected
from tests.chaos.product import Place, Product
from tests.chaos.stories.sessions import completion
from webhooks import catalog, service


def live_account(product: Product, _: Place) -> None:
    """An account from its creation over both storage thresholds to its deletion."""
    quota = product.dice.randint(10**6, 10**12)
    name = f"guest-{product.word()}"
    user = User(
        id=product.id(), username=name, email=f"{name}@example.com", storage_quota_bytes=quota
    )
    project = Project(id=product.id(), owner=user, name="Guest")
    place = Place(user, project, None, "Guest")
    session = Session(id=product.id(), project=project, owner=user, title="Guest")
    account = {"id": str(user.id), "email": user.email}

    def told(event: str, **data: Any) -> Expected:
        return Expected(event, str(user.id), data)

    product.do([told("user.created", **account, name="")], lambda: user.save(force_insert=True))
    user.name = product.word()
    product.do([told("user.updated", **account, name=user.name)], user.save, by_itself=True)
    product.do(
        [product.project(place), product.step(place, session, "started")],
        lambda: [row.save(force_insert=True) for row in (project, session)],
    )
    used = 0
    for percent, event in ((85, "storage.quota_warning"), (20, "storage.quota_exceeded")):
        recording = Recording(id=product.id(), session=session, title="Screen")
        product.do([], partial(recording.save, force_insert=True))
        size = quota * percent // 100
        used += size
        done, work = completion(product, recording, user, size=size)
        product.do([done, told(event, usedBytes=used, quotaBytes=quota)], work, by_itself=True)
    gone = [product.project(place, "deleted"), told("user.deleted", **account)]
    product.do(gone, user.delete, by_itself=True)


def trigger(product: Product, place: Place) -> None:
    name = product.dice.choice(["subscription.created", "subscription.updated"])
    data = {**catalog.get_type(name).example, "id": f"sub_{product.word()}"}
    expected = Expected(name, str(place.owner.id), data)
    product.do([expected], lambda: service.trigger_event(name, place.owner, data))


STORIES = [(2, live_account), (3, trigger)]
