"""The errors of this app."""


class TransitionNotAllowedError(Exception):
    """This status change is not allowed from the present status."""
