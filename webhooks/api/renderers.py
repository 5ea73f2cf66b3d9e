"""The form of the API's JSON."""

from rest_framework.renderers import JSONRenderer


class ApiRenderer(JSONRenderer):
    """The framework's own form, whatever REST_FRAMEWORK says."""

    ensure_ascii = False
    compact = True
    strict = True
