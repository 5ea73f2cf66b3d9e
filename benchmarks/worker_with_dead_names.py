"""A worker for which names below dead.invalid take as long as a name server that is gone.

`python -m benchmarks.worker_with_dead_names rqworker`: manage.py, with the look-up of such names
waiting as long as the system's resolver would. Names below alive.invalid are this machine's.
"""

import sys
import threading

LOOKUP_SECONDS = 10.0


def main() -> None:
    from webhooks.wire import many, names

    real = names.system_lookup

    def lookup(host: str) -> names.Answer:
        if host.endswith(".dead.invalid"):
            threading.Event().wait(LOOKUP_SECONDS)
            return None
        return ("127.0.0.1",) if host.endswith(".alive.invalid") else real(host)

    names.system_lookup = lookup
    # The default of MultiSender was bound when the class was made.
    many.MultiSender.__init__.__kwdefaults__ = {"max_connections": 512, "lookup": lookup}
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
