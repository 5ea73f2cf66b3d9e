"""The settings, and what makes some deliveries deadly (tests/chaos/poison.py)."""

from config.settings import *  # noqa: F403
from config.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.chaos.poison.Poison"]
