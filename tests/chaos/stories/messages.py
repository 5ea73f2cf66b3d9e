"""Messages of sessions, some of them rolled back."""

from django.db import transaction

from sessions_app.models import SessionMessage
from tests.chaos.product import GoneError, Place, Product


def post(product: Product, place: Place) -> None:
    message = product.message(place)
    product.do(
        [product.said(place, message)],
        lambda: message.save(force_insert=True),
        by_itself=product.dice.random() < 0.5,
    )


def post_many(product: Product, place: Place) -> None:
    messages = [product.message(place) for _ in range(product.dice.randint(2, 10))]
    product.do(
        [product.said(place, message) for message in messages],
        lambda: SessionMessage.objects.bulk_create(messages),
        by_itself=product.dice.random() < 0.5,
    )


def roll_back(product: Product, place: Place) -> None:
    message = product.message(place)
    product.do([], message.save, never=[product.said(place, message)], is_undone=True)


def roll_back_a_part(product: Product, place: Place) -> None:
    first, undone, last = (product.message(place) for _ in range(3))

    def work() -> None:
        first.save(force_insert=True)
        try:
            with transaction.atomic():
                undone.save(force_insert=True)
                raise GoneError
        except GoneError:
            last.save(force_insert=True)

    said = [product.said(place, message) for message in (first, last)]
    product.do(said, work, never=[product.said(place, undone)])


STORIES = [(38, post), (10, post_many), (8, roll_back), (5, roll_back_a_part)]
