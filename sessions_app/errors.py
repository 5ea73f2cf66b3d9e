"""Errors that the domain raises on purpose."""


class TransitionNotAllowedError(Exception):
    """This change of state is not possible from the current state."""
