"""Whether a row that a request has found was deleted meanwhile, so that its response is 404."""

from django.db.models import Model


def was_deleted(row: Model) -> bool:
    return not type(row)._base_manager.filter(pk=row.pk).exists()
