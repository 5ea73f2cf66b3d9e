"""Which libraries the wheels brought along: security fixes come to them by new wheels alone."""

import psycopg
import pycurl
from cryptography.hazmat.backends.openssl.backend import backend


def bundled() -> dict[str, str]:
    """Return the versions of the libraries in C that requests and secrets go through."""
    libcurl, tls = pycurl.version_info()[1], pycurl.version_info()[5]
    return {
        "libcurl": str(libcurl),
        "libcurl's TLS": str(tls),
        "cryptography's OpenSSL": backend.openssl_version_text(),
        "libpq": ".".join(map(str, divmod(psycopg.pq.version(), 10_000))),
    }
