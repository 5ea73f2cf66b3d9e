"""How long one statement of a request may take at the API and the portal."""

READ_SECONDS = 3
WRITE_SECONDS = 15
"""The maximum seconds; beyond them the response is 503."""
