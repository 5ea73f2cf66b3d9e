"""The resolver of a chaos run's workers: the receivers' name is what the file CHAOS_NAMES says.

Python imports this module at its start where PYTHONPATH names this folder, also in what a worker
starts in turn; what runs in production has no hook.
"""

import json
import os
import socket
from pathlib import Path
from typing import Any

_real = socket.getaddrinfo


def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    names = json.loads(Path(os.environ["CHAOS_NAMES"]).read_text())
    return _real(names.get(host, host), *args, **kwargs)


if "CHAOS_NAMES" in os.environ:
    socket.getaddrinfo = getaddrinfo
