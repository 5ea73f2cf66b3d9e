"""System checks: report wrong declarations and risky settings before anything runs.

E001 to E013 are about developers' declarations, E101 and W101 to W103 about security.
"""

from webhooks.checks import declarations, security

__all__ = ["declarations", "security"]
