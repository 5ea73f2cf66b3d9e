"""Yardstick: the least a Python process can do to sign and send, one CurlMulti and nothing else.

`python -m benchmarks.bare_loop URL FILE`: sends every line of FILE (an event's payload) and prints
the requests per second. No database, no retries, no checks of addresses or of anything else.
"""

import base64
import hmac
import sys
import time
import uuid
from collections import deque
from pathlib import Path

import pycurl

IN_FLIGHT = 64
DECODED_SECRET = b"k" * 32
SECRET_TEXT = b"whsec_" + base64.b64encode(DECODED_SECRET)


def header_lines(body: bytes, event_id: bytes | None = None) -> list[bytes]:
    event_id = event_id or b"evt_" + uuid.uuid4().hex.encode()
    timestamp = b"%d" % time.time()
    content = timestamp + b"." + body
    standard = hmac.digest(DECODED_SECRET, event_id + b"." + content, "sha256")
    return [
        b"Accept:",
        b"Expect:",
        b"Content-Type: application/json",
        b"User-Agent: RemoteDevAI-Webhooks/1.0",
        b"webhook-id: " + event_id,
        b"webhook-timestamp: " + timestamp,
        b"webhook-signature: v1," + base64.b64encode(standard),
        b"X-Webhook-Signature: " + hmac.digest(SECRET_TEXT, content, "sha256").hex().encode(),
        b"X-Webhook-Timestamp: " + timestamp,
        b"X-Webhook-ID: " + event_id,
        b"X-Webhook-Event: session.message",
        b"X-Webhook-Delivery: del_" + uuid.uuid4().hex.encode(),
        b"X-Webhook-Attempt: 1",
    ]


def new_handle(url: str) -> pycurl.Curl:
    handle = pycurl.Curl()
    handle.setopt(pycurl.URL, url)
    handle.setopt(pycurl.POST, 1)
    handle.setopt(pycurl.NOSIGNAL, 1)
    handle.setopt(pycurl.WRITEFUNCTION, len)
    return handle


def send_all(url: str, bodies: deque[bytes]) -> int:
    """Send everything with IN_FLIGHT handles and return how many answers were 200."""
    multi = pycurl.CurlMulti()
    free = [new_handle(url) for _ in range(IN_FLIGHT)]
    in_flight = succeeded = 0
    while bodies or in_flight:
        while bodies and free:
            handle, body = free.pop(), bodies.popleft()
            handle.setopt(pycurl.POSTFIELDS, body)
            handle.setopt(pycurl.HTTPHEADER, header_lines(body))
            multi.add_handle(handle)
            in_flight += 1
        multi.perform()
        more, done, failed = multi.info_read()
        for handle in done:
            succeeded += handle.getinfo(pycurl.RESPONSE_CODE) == 200
        for handle in [*done, *(handle for handle, _, _ in failed)]:
            multi.remove_handle(handle)
            free.append(handle)
            in_flight -= 1
        if not (done or failed or more):
            multi.select(1.0)
    return succeeded


def main() -> None:
    url, path = sys.argv[1:]
    bodies = deque(Path(path).read_bytes().splitlines())
    count = len(bodies)
    started_at = time.perf_counter()
    succeeded = send_all(url, bodies)
    seconds = time.perf_counter() - started_at
    if succeeded != count:
        sys.exit(f"Only {succeeded} of {count} requests succeeded.")
    print(count / seconds)


if __name__ == "__main__":
    main()
