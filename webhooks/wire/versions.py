"""Versions of the C libraries inside the wheels: they get security fixes only by new wheels."""

import psycopg
import pycurl
from cryptography.hazmat.backends.openssl.backend import backend


def bundled() -> dict[str, str]:
    """Return the versions of the C libraries that handle requests, secrets and the database."""
    libcurl, tls = pycurl.version_info()[1], pycurl.version_info()[5]
    return {
        "libcurl": str(libcurl),
        "libcurl's TLS": str(tls),
        "cryptography's OpenSSL": backend.openssl_version_text(),
        "libpq": ".".join(map(str, divmod(psycopg.pq.version(), 10_000))),
    }
