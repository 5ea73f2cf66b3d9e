"""Requests and responses without libcurl: models and producers use them."""

import subprocess
import sys


def test_apps_and_models_are_loaded_without_libcurl() -> None:
    program = (
        "import django, sys; django.setup(); import webhooks.models, webhooks.service;"
        "assert 'webhooks.wire.messages' in sys.modules;"
        "assert 'pycurl' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", program], check=True)
