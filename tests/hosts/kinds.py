"""What breaks between hosts, and whole hosts."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from config.services import BASE_DIR
from tests.chaos.causes import Key, key_of
from tests.chaos.crew import forget_connection, tree
from tests.chaos.faults import Fault, Kind, Stage
from tests.chaos.kinds import processes
from tests.chaos.kinds.held import held_by, held_for, public
from tests.chaos.kinds.network import BREAKER_SECONDS
from tests.hosts.crew import Place
from tests.hosts.postgres import Pair, Server
from webhooks.ids import EVENT_PREFIX

CUT_SECONDS = 30
IN_FLIGHT_SECONDS = 0.3
"""How long Postgres may take for what had reached it."""
LATE_SECONDS = 5
"""How long after a link is whole again its last packets may arrive: the kernel goes on sending what a
closed connection left."""
SLOW_SECONDS = 20
POOLER_DOWN_SECONDS = (0.5, 3)
BEHIND_SECONDS = 2
APART_PORT = 5433


def cut_host_off(stage: Stage, fault: Fault) -> None:
    """A host of the product and all others no longer reach one another, with requests in flight."""
    worker = stage.world.worker()
    place: Place = stage.world.place_of(worker)
    lab = stage.world.servers.lab
    lab.cut(place.host)
    try:
        time.sleep(IN_FLIGHT_SECONDS)
        fault.may_repeat = held_by(tree(worker))
        fault.is_death = True
        fault.silent_from = time.time()
        time.sleep(CUT_SECONDS)
    finally:
        lab.join(place.host)
        fault.repeats_until = time.time() + LATE_SECONDS


def slow_and_lossy_link(stage: Stage, fault: Fault) -> None:
    """A host is behind a slow link that loses packets; what its worker holds meanwhile may be late."""
    worker = stage.world.worker()
    place: Place = stage.world.place_of(worker)
    with stage.world.servers.lab.slow(place.host):
        fault.may_repeat = held_for(worker, SLOW_SECONDS)
    fault.repeats_until = time.time() + LATE_SECONDS
    fault.delays_order_until = time.time() + BREAKER_SECONDS


def restart_pooler(stage: Stage, _: Fault) -> None:
    """PgBouncer on one host is killed, and started again after a while."""
    place: Place = stage.dice.choice(stage.world.servers.places)
    place.pooler.kill()
    time.sleep(stage.dice.uniform(*POOLER_DOWN_SECONDS))
    place.pooler.start()


def kill_valkey_primary(stage: Stage, _: Fault) -> None:
    stage.world.servers.valkey.kill_primary()


def promote_standby(stage: Stage, fault: Fault) -> None:
    """Postgres crashes, and its synchronous standby takes over."""
    postgres: Pair = stage.world.servers.postgres
    _let_standby_take_over(stage, fault, lambda: postgres.primary.stop(signal.SIGQUIT))


def lose_server_host(stage: Stage, fault: Fault) -> None:
    """The host of the primary is cut off, with its Postgres and its Valkey still at work on it."""
    servers = stage.world.servers
    host = servers.postgres.primary.host
    _let_standby_take_over(stage, fault, lambda: servers.lab.cut(host))


def _let_standby_take_over(stage: Stage, fault: Fault, lose: Callable[[], None]) -> None:
    servers = stage.world.servers
    postgres: Pair = servers.postgres
    lost = postgres.primary
    forget_connection()
    with ExitStack() as stack:
        stack.callback(servers.lab.join, lost.host)
        # Nobody may reach it again before it is the standby: clients take the first that accepts writes.
        stack.callback(lost.stop, signal.SIGQUIT)
        lose()
        fault.may_repeat = public(postgres.unfinished())
        postgres.promote()
        servers.point_poolers_at_primary()
        fault.works_from = time.time()
        # What was handed over before anybody noticed.
        fault.repeats_until = fault.works_from + LATE_SECONDS
    postgres.pair_up(is_synchronous=True)


def fail_over_asynchronously(stage: Stage, fault: Fault) -> None:
    """The primary crashes while its asynchronous standby is behind. What it alone had is lost."""
    servers = stage.world.servers
    postgres: Pair = servers.postgres
    servers.lab.cut(postgres.standby.host)
    fault.forgotten_from = time.time()
    time.sleep(BEHIND_SECONDS)
    # They know of rows that will be gone.
    stage.world.kill_producers()
    forget_connection()
    postgres.primary.stop(signal.SIGQUIT)
    servers.lab.join(postgres.standby.host)
    fault.may_repeat = public(postgres.unfinished())
    postgres.promote()
    servers.point_poolers_at_primary()
    fault.works_from = time.time()
    fault.repeats_until = fault.works_from + LATE_SECONDS
    stage.world.renew_producers()
    former = postgres.standby
    former.start(port=APART_PORT)
    lost = _only_on(former, postgres.primary)
    named = _named_by_doctor(former)
    assert lost, "The standby was not behind."
    assert named == set(lost), "The doctor names other events than those that are lost."
    fault.forgotten = frozenset(lost.values())
    former.stop(signal.SIGINT)
    postgres.pair_up(is_synchronous=False)


def _only_on(former: Server, primary: Server) -> dict[str, Key]:
    """Return the events that only the former primary has: their public ids and their keys."""
    sql = "SELECT id, payload FROM webhooks_event"
    with former.connect() as one, primary.connect() as other:
        before, after = (dict(each.execute(sql).fetchall()) for each in (one, other))
    lost = {}
    for id_ in before.keys() - after.keys():
        envelope = json.loads(before[id_])
        lost[EVENT_PREFIX + id_.hex] = key_of(envelope["type"], envelope["data"])
    return lost


def _named_by_doctor(former: Server) -> set[str]:
    command = ["manage.py", "doctor", "--former-primary", former.url, "--faults"]
    ran = subprocess.run(
        [sys.executable, *command], cwd=BASE_DIR, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1, ran.stderr
    return {line.split("\t")[0] for line in ran.stdout.splitlines()}


HOST_KINDS = [
    Kind(4, cut_host_off),
    Kind(3, slow_and_lossy_link),
    Kind(2, restart_pooler),
    Kind(2, kill_valkey_primary),
    Kind(0, promote_standby),
    Kind(0, lose_server_host),
]
TAIL_KINDS = [Kind(0, fail_over_asynchronously)]
ALL = [*HOST_KINDS, Kind(2, processes.kill_worker), Kind(1, processes.terminate_worker)]
