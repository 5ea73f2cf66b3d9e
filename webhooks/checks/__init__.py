"""System checks: what would hurt later is said before anything runs.

E001 to E007 are about what developers declare, E101 and W101 to W103 about security.
"""

from webhooks.checks import declarations, security

__all__ = ["declarations", "security"]
