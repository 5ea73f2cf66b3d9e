"""`make serve`: the site as in production, on the application server of requirements.txt."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from config.services import BASE_DIR

THREADS = 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> tuple[int, str, bytes]:
    """Return status, content type and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Serve with one process on the tests' servers; the process must stop on SIGTERM."""
    port = free_port()
    process = serve(port)
    try:
        wait_for(port, process)
        yield port
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not [child for child in started if child.is_running()]
    finally:
        process.kill()
        process.wait()


def serve(port: int) -> subprocess.Popen[bytes]:
    arguments = [f"--port={port}", "--processes=1", f"--threads={THREADS}"]
    return subprocess.Popen(
        [sys.executable, "-m", "config.serve", *arguments],
        cwd=BASE_DIR,
        env=os.environ | {"DEBUG": "1"},
    )


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            get(port, "/")
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not answer"
            time.sleep(0.1)
        else:
            return


def test_it_runs_without_debug(port: int) -> None:
    status, _, body = get(port, "/no/such/page")

    assert status == 404
    assert b"DEBUG" not in body
    assert b"urlpatterns" not in body


@pytest.mark.parametrize("path", ["/api/v1/schema", "/admin/login/", "/api/v1/docs"])
def test_pages_are_there(port: int, path: str) -> None:
    assert get(port, path)[0] == 200


def test_static_files_are_served(port: int) -> None:
    assert get(port, "/static/webhooks/icon.svg")[:2] == (200, "image/svg+xml")


@pytest.mark.parametrize("path", ["/static/../encryption.key", "/static/%2e%2e/encryption.key"])
def test_files_beside_the_static_ones_are_not_served(port: int, path: str) -> None:
    assert get(port, path)[0] in (400, 404)


def test_clients_with_incomplete_headers_do_not_block_others(port: int) -> None:
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(5 * THREADS)]
    try:
        for client in slow:
            client.sendall(b"POST /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nConte")
        assert get(port, "/api/v1/schema")[0] == 200
    finally:
        for client in slow:
            client.close()


def test_its_processes_do_not_outlive_a_server_that_is_killed() -> None:
    port = free_port()
    process = serve(port)
    try:
        wait_for(port, process)
        server = psutil.Process(process.pid).children()[0]
        processes = server.children(recursive=True)
        server.kill()
        assert process.wait(10) != 0
        _, alive = psutil.wait_procs(processes, timeout=15)
    finally:
        process.kill()
        process.wait()

    assert processes
    assert not alive
