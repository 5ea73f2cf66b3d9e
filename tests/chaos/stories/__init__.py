"""What happens in RemoteDevAI: how often, and what."""

from tests.chaos.stories import accounts, messages, projects, sessions

ALL = [*messages.STORIES, *sessions.STORIES, *projects.STORIES, *accounts.STORIES]
