"""Store what the webhooks that exist pin, so that a type's first newer version finds it."""

import hashlib
import json
from typing import Any

from django.db import migrations

PAGE = 1000


def fill(apps: Any, schema_editor: Any) -> None:
    """Fill `pinned_key` a page at a time; webhooks that were saved since have it."""
    Webhook = apps.get_model("webhooks", "Webhook")  # noqa: N806
    StoredForm = apps.get_model("webhooks", "StoredForm")  # noqa: N806
    rows = Webhook.objects.filter(pinned_key=None).order_by("id")
    while page := list(rows.only("id", "form", "data_fields", "version")[:PAGE]):
        for one in page:
            fields = {"fields": one.data_fields} if one.form == "fields" else {}
            spec = json.dumps(
                {"form": one.form, **fields, "version": one.version.isoformat()},
                ensure_ascii=False,
                separators=(",", ":"),
            )
            one.pinned_key = hashlib.sha256(spec.encode()).hexdigest()[:20]
            StoredForm.objects.bulk_create(
                [StoredForm(key=one.pinned_key, spec=spec)], ignore_conflicts=True
            )
        Webhook.objects.bulk_update(page, ["pinned_key"])


class Migration(migrations.Migration):

    atomic = False
    dependencies = [
        ("webhooks", "0033_versions"),
    ]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
