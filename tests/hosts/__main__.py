"""Three hosts and what breaks between them: `python -m tests.hosts [--seed N] [--minutes M]`.

Network namespaces of this machine, joined by a bridge: on each of three hosts a worker, the site, a
producer, PgBouncer in transaction mode and a Sentinel; on two more Postgres with a synchronous standby,
and Valkey with a replica; the receivers outside. The clocks of two hosts are ten minutes apart. The judge
is that of `python -m tests.chaos`. Needs root and iproute2; everything lies in namespaces of the run's own
and ends with it. Exit status 1 on any broken promise.
"""

import argparse
import os
import secrets
import sys
import tempfile
from base64 import b64encode
from pathlib import Path

from config.services import BASE_DIR
from tests.chaos.clock import Clock, build_library
from tests.chaos.options import add_options
from tests.hosts.lab import ISOLATED, NETWORK, Lab, database_url, isolate, valkey_url

RECEIVERS = (31, 32)
CLOCK_SECONDS = {"app1": 300, "app2": -300, "app3": 0}
"""How far the clock of each host of the product is from the servers' and the receivers'."""
PRODUCTION = {
    "DEBUG": "0",
    "DJANGO_SETTINGS_MODULE": "config.settings",
    "ALLOWED_HOSTS": "*",
    # No proxy speaks TLS before the web servers here.
    "SECURE_SSL_REDIRECT": "0",
    "WEBHOOKS_ALLOWED_NETWORKS": f"{NETWORK}.0/24",
    "WEBHOOKS_ALLOWED_PORTS": "*",
    # Read where tests/chaos/receiver.py is imported.
    "CHAOS_ADDRESSES": ",".join(f"{NETWORK}.{number}" for number in RECEIVERS),
}
"""All else is as it is by default."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="hosts", description=__doc__)
    add_options(parser, minutes=3)
    parser.add_argument(
        "--asynchronous",
        action="store_true",
        help="Break nothing but that the primary crashes once while an asynchronous standby is behind.",
    )
    options = parser.parse_args()
    if ISOLATED not in os.environ:
        isolate("tests.hosts", sys.argv[1:])
    sys.exit(_run(options))


def _run(options: argparse.Namespace) -> int:
    logs = BASE_DIR / "var" / "hosts"
    logs.mkdir(parents=True, exist_ok=True)
    lab = Lab()
    folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/run"))
    folder.chmod(0o711)
    os.environ |= PRODUCTION | {
        "SECRET_KEY": secrets.token_urlsafe(50),
        "WEBHOOKS_ENCRYPTION_KEYS": b64encode(secrets.token_bytes(32)).decode(),
    }
    from tests.chaos.receiver import ADDRESSES, HOST
    from tests.webhooks.certificates import Authority

    authority = Authority.make(folder / "certificates")
    for host in (ADDRESSES[0], HOST):
        authority.context(host)
    os.environ["WEBHOOKS_CA_BUNDLE"] = str(authority.bundle)
    apps = [lab.add(name, 11 + number) for number, name in enumerate(CLOCK_SECONDS)]
    databases = [lab.add("db1", 21), lab.add("db2", 22)]
    outside = lab.add("outside", *RECEIVERS)
    os.environ |= {"DATABASE_URL": database_url(databases), "REDIS_URL": valkey_url(apps)}
    import django

    django.setup()
    from tests.hosts.postgres import Pair, Pooler
    from tests.hosts.valkey import WatchedValkey

    postgres = Pair(databases, folder, logs)
    valkey = WatchedValkey(databases, apps, folder, logs)
    postgres.start(is_synchronous=not options.asynchronous)
    valkey.start()
    postgres.migrate()
    from tests.chaos.run import Setting, run
    from tests.hosts import kinds
    from tests.hosts.crew import HostsCrew, Place, Servers
    from tests.hosts.lab import make_folder

    library = build_library(folder)
    places = []
    for app in apps:
        clock = Clock(library, folder / f"{app.name}.clock") if library else None
        if clock:
            clock.set(CLOCK_SECONDS[app.name])
        places.append(Place(app, Pooler(app, make_folder(folder / app.name), logs), clock))
    with (logs / "product.log").open("wb") as log:
        servers = Servers(lab, outside, postgres, valkey, places, folder, log)
        servers.point_poolers_at_primary()
        for place in places:
            place.pooler.start()
        setting = Setting(
            "hosts",
            authority.folder,
            kinds.TAIL_KINDS if options.asynchronous else kinds.ALL,
            lambda recipients, token: HostsCrew(options.seed, servers, recipients, token),
            receiver_prefix=[*outside.prefix, "--"],
        )
        return run(setting, options)


if __name__ == "__main__":
    main()
