"""What a chaos run changes in the processes of workers and of the web server.

The resolver: the receivers' name is what the file CHAOS_NAMES says; a name without an address is not
found. With CHAOS_ENDS_WITH_PARENT a process that was forked ends with the one that forked it. Python imports this
module at its start where PYTHONPATH names this folder, also in what a process starts in turn; what
runs in production has no hook.
"""

import ctypes
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

_real = socket.getaddrinfo


def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    address = json.loads(Path(os.environ["CHAOS_NAMES"]).read_text()).get(host, host)
    if address is None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _real(address, *args, **kwargs)


if "CHAOS_NAMES" in os.environ:
    socket.getaddrinfo = getaddrinfo


def end_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if "CHAOS_ENDS_WITH_PARENT" in os.environ:
    # The server forks its processes.
    os.register_at_fork(after_in_child=end_with_parent)
