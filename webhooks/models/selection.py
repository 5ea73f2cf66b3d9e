"""What a webhook receives: events of which types, on what condition on their data, in which form, and
how often of one object."""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, NamedTuple

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from webhooks import catalog
from webhooks.choices import Form
from webhooks.errors import FilterInvalidError
from webhooks.models.data_fields import MAX_FIELDS, MAX_PATH_CHARACTERS, fields_problem
from webhooks.models.event import Event
from webhooks.models.fields import JsonPathField
from webhooks.models.filters import check_filter, compile_filter
from webhooks.models.stored_form import KEY_CHARACTERS, StoredForm
from webhooks.pace.bounds import MAX_PATTERNS, length_problem, named
from webhooks.wire.forms import Rendered, render, spec_text


def events_problem(patterns: Sequence[str]) -> str | None:
    """Return what is wrong with the event patterns of a webhook."""
    if not patterns:
        return "Choose at least one event type, or * for all."
    if too_many := length_problem(patterns, MAX_PATTERNS):
        return too_many
    unknown = [name for name in patterns if not catalog.is_known_pattern(name)]
    return f"Unknown event types: {named(unknown)}." if unknown else None


FORM_FIELDS = frozenset({"form", "data_fields", "version"})


class RecordedForm(NamedTuple):
    """What a delivery records, and the parameters that it stands for."""

    form: str | None
    spec: str | None


class Selection(models.Model):
    """The part of Webhook that says so."""

    events = ArrayField(
        models.CharField(max_length=100),
        help_text="Event types or patterns: project.created, project.*, *",
    )
    filter = models.JSONField(
        null=True,
        blank=True,
        default=None,
        help_text='A condition on the data of these events, such as {"amount": {"gte": 10000}}; '
        "empty for all of them.",
    )
    # What Postgres evaluates; save() keeps it.
    filter_path = JsonPathField(null=True, default=None, editable=False)
    form = models.CharField(
        max_length=20,
        choices=Form,
        default=Form.STANDARD,
        db_default=Form.STANDARD,
        help_text="How an event becomes the body of a request. Events of before a change keep theirs.",
    )
    data_fields = ArrayField(
        models.CharField(max_length=MAX_PATH_CHARACTERS),
        size=MAX_FIELDS,
        null=True,
        blank=True,
        default=None,
        help_text="For the form fields: the dotted paths in data that are sent, such as id, name.",
    )
    version = models.DateField(
        default=catalog.current_version,
        db_default=catalog.FIRST_VERSION,
        help_text="The versions of events' data that it gets: those of this date.",
    )
    # What deliveries record of a form with parameters, and of events of a newer version; save()
    # keeps them.
    form_key = models.CharField(  # noqa: DJ001 (null = a form without)
        max_length=KEY_CHARACTERS, null=True, default=None, editable=False
    )
    pinned_key = models.CharField(  # noqa: DJ001 (null = not saved since there are versions)
        max_length=KEY_CHARACTERS, null=True, default=None, editable=False
    )

    debounce_seconds = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        default=None,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="Seconds that an update of an object waits for later ones, which replace it: at most "
        "one is sent in this time; empty to send each at once.",
    )

    class Meta:
        abstract = True

    def save(self, *args: Any, update_fields: Iterable[str] | None = None, **options: Any) -> None:
        """Raises FilterInvalidError where the filter has not even the form of one."""
        if update_fields is None or "filter" in update_fields:
            self._compile()
            update_fields = update_fields and [*update_fields, "filter_path"]
        if update_fields is None or not FORM_FIELDS.isdisjoint(update_fields):
            plain, pinned = self._form_spec, self._pinned_spec
            self.form_key = None if plain is None else StoredForm.keep(plain)
            self.pinned_key = StoredForm.keep(pinned)
            update_fields = update_fields and [*update_fields, "form_key", "pinned_key"]
        super().save(*args, update_fields=update_fields, **options)

    def receives(self, event_type: str) -> bool:
        """Return whether `events` selects this type."""
        return not catalog.patterns_matching(event_type).isdisjoint(self.events)

    @property
    def event_types(self) -> list[catalog.EventType]:
        """The types of the catalogue that `events` selects."""
        return [one for one in catalog.all_types() if self.receives(one.name)]

    def recorded_form(self, stored_version: date | None) -> RecordedForm:
        """Return what its deliveries record of events whose data has this version.

        As STORE_SQL in webhooks/outbox/store.py has it.
        """
        if stored_version is not None and stored_version > self.version:
            return RecordedForm(self.pinned_key, self._pinned_spec)
        if self.form == Form.FIELDS:
            return RecordedForm(self.form_key, self._form_spec)
        return RecordedForm(None if self.form == Form.STANDARD else self.form, None)

    def rendered(self, event: Event) -> Rendered:
        """Return what it would get of an event with its present settings."""
        spec = self.recorded_form(event.version).spec
        payload = bytes(event.payload)
        return render(self.form, payload, event.object_reference, spec, event.version)

    @property
    def _chosen_fields(self) -> list[str] | None:
        return (self.data_fields or []) if self.form == Form.FIELDS else None

    @property
    def _form_spec(self) -> str | None:
        fields = self._chosen_fields
        return None if fields is None else spec_text(self.form, fields=fields)

    @property
    def _pinned_spec(self) -> str:
        return spec_text(self.form, fields=self._chosen_fields, version=self.version)

    def _compile(self) -> None:
        self.filter_path = None if self.filter is None else compile_filter(self.filter)

    def clean_selection(self) -> dict[str, str]:
        """Compile the filter, and return what is wrong with the selection, by field."""
        if problem := events_problem(self.events):
            return {"events": problem}
        problems: dict[str, str] = {}
        if self.version not in (versions := catalog.all_versions()):
            given = named(one.isoformat() for one in versions)
            return {"version": f"There is no such version; there are {given}."}
        fields = self.data_fields or ()
        if (self.form == Form.FIELDS or fields) and (
            problem := fields_problem(fields, self.event_types, self.version)
        ):
            problems["data_fields"] = problem
        try:
            self._compile()
            if self.filter is not None:
                check_filter(self.filter, self.event_types)
        except FilterInvalidError as refusal:
            problems["filter"] = str(refusal)
        return problems
