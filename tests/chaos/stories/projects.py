"""Projects are renamed and deleted."""

from collections.abc import Callable

from projects.models import Project
from sessions_app.models import Session
from tests.chaos.product import Place, Product
from tests.chaos.stories.sessions import live_session_at_once


def rename_all(product: Product, place: Place) -> None:
    """One statement for the projects of many owners."""
    text, places = product.word(), list(product.places.values())
    for other in places:
        other.project.description = text
    projects = Project.objects.filter(id__in=[other.project.id for other in places])
    product.do(
        [product.project(other, "updated") for other in places],
        lambda: projects.update(description=text),
        by_itself=True,
    )


def rename(product: Product, place: Place) -> None:
    _set_name(product, place)
    fields = ["name", "description"]
    product.do(
        [product.project(place, "updated")], lambda: place.project.save(update_fields=fields)
    )


def _set_name(product: Product, place: Place) -> None:
    place.project.description, place.name = product.word(), f"Site {product.word()}"
    place.project.name = place.name


def rename_and_roll_back(product: Product, place: Place) -> None:
    """The instance keeps the name that the database never had; what follows must not tell it."""
    before = place.name, place.project.description
    _set_name(product, place)
    never = [product.project(place, "updated")]
    product.do([], place.project.save, never=never, is_undone=True)
    place.name, place.project.description = before
    live_session_at_once(product, place)
    place.project.name = place.name


def post_and_rename(product: Product, place: Place) -> None:
    first, last = product.message(place), product.message(place)
    _set_name(product, place)

    def work() -> None:
        first.save(force_insert=True)
        place.project.save(update_fields=["name", "description"])
        last.save(force_insert=True)

    renamed = product.project(place, "updated")
    product.do([product.said(place, first), renamed, product.said(place, last)], work)


def _short(product: Product, place: Place) -> tuple[Place, list[Callable[[], object]]]:
    project = Project(id=product.id(), owner=place.owner, name="Short-lived")
    session = Session(id=product.id(), project=project, owner=place.owner, title="Short-lived")
    return Place(place.owner, project, session, project.name), [
        lambda: project.save(force_insert=True),
        lambda: session.save(force_insert=True),
        project.delete,
    ]


def delete_project(product: Product, place: Place) -> None:
    short, steps = _short(product, place)
    gone = product.project(short, "deleted")
    expected = [product.project(short), product.step(short, short.session, "started"), gone]
    for event, work in zip(expected, steps, strict=True):
        product.do([event], work, by_itself=True)


def make_and_delete_at_once(product: Product, place: Place) -> None:
    short, steps = _short(product, place)
    never = [product.project(short), product.step(short, short.session, "started")]
    never.append(product.project(short, "deleted"))
    product.do([], lambda: [work() for work in steps], never=never)


STORIES = [
    (3, rename_all),
    (4, rename),
    (3, rename_and_roll_back),
    (4, post_and_rename),
    (3, delete_project),
    (1, make_and_delete_at_once),
]
