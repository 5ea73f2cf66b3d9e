"""Forms with parameters, as deliveries record them: stored once, never changed, never deleted."""

import hashlib
from functools import lru_cache

from django.db import models
from django.db.models import F, Func, Q
from django.db.models.functions import Now

KEY_CHARACTERS = 20


class ContentKey(Func):
    """The key that a specification has."""

    template = f"left(encode(sha256(convert_to(%(expressions)s, 'UTF8')), 'hex'), {KEY_CHARACTERS})"
    output_field = models.CharField()


class StoredForm(models.Model):
    """A form and its parameters, as spec_text() in webhooks/wire/forms.py writes them.

    Its key is a hash of them, which the database checks: a row cannot come to mean something else.
    """

    key = models.CharField(primary_key=True, max_length=KEY_CHARACTERS, editable=False)
    spec = models.TextField(editable=False, help_text="The form and its parameters, as JSON.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(key=ContentKey(F("spec"))), name="stored_form_key_is_its_hash"
            )
        ]

    def __str__(self) -> str:
        return self.spec

    @staticmethod
    def keep(spec: str) -> str:
        """Store a specification unless it is stored already, and return its key."""
        key = hashlib.sha256(spec.encode()).hexdigest()[:KEY_CHARACTERS]
        StoredForm.objects.bulk_create([StoredForm(key=key, spec=spec)], ignore_conflicts=True)
        return key


@lru_cache(maxsize=4096)
def spec_of(key: str) -> str:
    """Return the specification with this key, which never changes."""
    return StoredForm.objects.values_list("spec", flat=True).get(key=key)
