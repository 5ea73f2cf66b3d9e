"""The WSGI entry point."""

import multiprocessing
import os

from django.core.wsgi import get_wsgi_application

from webhooks.worker.process import stop_with_parent

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django_application = get_wsgi_application()

from webhooks.api.wsgi import Shortcut  # noqa: E402 (needs the applications)

application = Shortcut(django_application)
if (server := multiprocessing.parent_process()) is not None:
    # The processes of the application server do not notice when it is killed.
    stop_with_parent(server.pid or 0)
