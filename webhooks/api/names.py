"""How names of this code are spelt on the wire."""


def camel_case(name: str) -> str:
    """Return `retryDelay` for `retry_delay`."""
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


def pascal_case(name: str) -> str:
    """Return `RetryFailed` for `retry-failed` and for `retry_failed`."""
    return "".join(part.capitalize() for part in name.replace("-", "_").split("_"))
