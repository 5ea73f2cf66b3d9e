"""Run the tests of a module against the project's own database: `python run.py scenario`."""

import os
import sys
import unittest

import django
from django.test.utils import setup_test_environment

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    django.setup()
    # For the contexts of pages.
    setup_test_environment()
    unittest.main(sys.argv.pop(1), verbosity=2)
