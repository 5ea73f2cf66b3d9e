"""Run the tests of a module against the project's own database: `python run.py scenario`."""

import os
import sys
import unittest

import django

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    django.setup()
    unittest.main(sys.argv.pop(1), verbosity=2)
