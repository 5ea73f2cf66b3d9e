"""How names of this code are spelt on the wire."""


def camel_case(name: str) -> str:
    """Return `retryDelay` for `retry_delay`."""
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)
