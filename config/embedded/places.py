"""Folders that a server can use, and the packages that hold its programs."""

import hashlib
import os
import stat
import tempfile
from importlib.util import find_spec
from pathlib import Path

MAX_SOCKET_PATH = 100
"""The path of a Unix socket has about 107 bytes."""
NOBODY = 65534


class EmbeddedServiceError(RuntimeError):
    """An embedded server did not start."""


def reachable_home(directory: Path) -> Path:
    """Return `directory`, or a short private directory if a server could not use it.

    The length of a socket's path is limited. As root, Postgres runs as another user, who must be
    able to reach the directory, and this module changes no permissions outside it.
    """
    too_long = len(str(directory / ".s.PGSQL.5432")) > MAX_SOCKET_PATH
    if too_long or not is_reachable(directory, server_uid()):
        digest = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
        directory = Path(tempfile.gettempdir()) / f"remotedevai-{os.getuid()}-{digest}"
    directory.mkdir(parents=True, exist_ok=True)
    # lstat: in a folder that everybody may write to, anybody may have put a link.
    found = directory.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise EmbeddedServiceError(f"{directory} is not our folder; delete it.")
    # As root, the server's user must be able to pass through to its data, but not to list files.
    directory.chmod(0o711 if os.getuid() == 0 else 0o700)
    return directory


def server_uid() -> int:
    """Return the user id for Postgres, which refuses to run as root."""
    return NOBODY if os.getuid() == 0 else os.getuid()


def is_reachable(path: Path, uid: int) -> bool:
    """Return whether the user `uid` may pass through all parent folders of `path`."""
    if uid == os.getuid():
        return True
    existing = [folder for folder in path.parents if folder.exists()]
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in existing)


def package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise EmbeddedServiceError(f"The package {name} is not installed; run `make setup`.")
    return Path(spec.origin).parent
