"""Requests and responses of the `requests` types, cheap to make and to read; pure."""

from collections.abc import Callable
from datetime import timedelta
from functools import cached_property

from requests import PreparedRequest, Response
from requests.cookies import RequestsCookieJar
from requests.structures import CaseInsensitiveDict

from webhooks.wire.header_lines import answer_pairs, header_pairs


class Reply(Response):
    """A Response whose headers are parsed on first access."""

    # Response.__init__ makes a cookie jar and more, which costs three times as much as all the rest.
    raw = None
    reason = None  # type: ignore[assignment]
    encoding = None
    history = []
    cookies = RequestsCookieJar()
    elapsed = timedelta(0)
    # A `requests` session would follow a response that is marked as a redirect.
    is_redirect = False
    is_permanent_redirect = False
    _content_consumed = True

    def __init__(
        self,
        status: int,
        lines: list[bytes],
        body: bytes,
        *,
        request: PreparedRequest,
        is_truncated: bool,
    ) -> None:
        self.head = _last_block(b"".join(lines))
        """The raw header block of the final response, status line first."""
        self._content = body
        self.status_code = status
        self.request = request
        self.url = request.url or ""
        self.truncated = is_truncated
        """Whether the body is longer than the part that was read."""

    @cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        joined: dict[str, str] = {}
        for name, value in answer_pairs(self.head):
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        return CaseInsensitiveDict(joined)


class HeaderBlock(CaseInsensitiveDict[str]):
    """Request headers as lines for libcurl, parsed into a dictionary on first access."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines

    def __repr__(self) -> str:
        """Show names only, because values may be credentials."""
        return f"HeaderBlock({[name for name, _ in header_pairs(self.lines)]})"

    @cached_property
    def _store(self) -> dict[str, tuple[str, str]]:
        return {name.lower(): (name, value) for name, value in header_pairs(self.lines)}


class Post(PreparedRequest):
    """A POST whose parts are ready: nothing is parsed, encoded or copied again."""

    method = "POST"
    body: bytes
    headers: HeaderBlock
    hooks = {}
    _cookies = None
    _body_position = None

    def __init__(self, url: str, body: bytes, headers: HeaderBlock) -> None:
        self.url = url
        self.body = body
        self.headers = headers


class Draft(PreparedRequest):
    """A POST that is built and signed only when it is handed to libcurl.

    The sender calls `build` once the host's addresses are known; it returns the request, to this URL,
    or None if it may not be sent any more. When the connection is open and the request was built some
    time ago, the sender calls `is_current`: whether the request may still be sent as built. Both run
    on the sender's thread and must not raise; in a MultiSender they must not wait.
    """

    method = "POST"
    body = b""
    headers: CaseInsensitiveDict[str] = CaseInsensitiveDict()
    hooks = {}
    _cookies = None
    _body_position = None

    def __init__(
        self, url: str, build: Callable[[], PreparedRequest | None], is_current: Callable[[], bool]
    ) -> None:
        self.url = url
        self.build = build
        self.is_current = is_current


def draft_of(request: PreparedRequest) -> Draft:
    """Return a draft of a request that is built already and always current."""
    if isinstance(request, Draft):
        return request
    return Draft(request.url or "", lambda: request, lambda: True)


def request_target(url: str) -> str:
    """Return a URL's path and query, unchanged."""
    rest = url.partition("://")[2]
    target = rest[len(rest.replace("?", "/", 1).partition("/")[0]) :]
    return target if target.startswith("/") else f"/{target}"


def _last_block(blocks: bytes) -> bytes:
    """Return the last header block, that of the final response; earlier ones are interim responses."""
    return blocks[blocks.rfind(b"\nHTTP/") + 1 :]
