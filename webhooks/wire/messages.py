"""Requests and responses as `requests` has them, made and read at little cost; pure."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import cached_property

from requests import PreparedRequest, Response
from requests.cookies import RequestsCookieJar
from requests.structures import CaseInsensitiveDict


class Reply(Response):
    """A Response whose headers are parsed when somebody looks at them."""

    # Response.__init__ makes a cookie jar and more for each answer, at thrice the cost of all else.
    raw = None
    reason = None  # type: ignore[assignment]
    encoding = None
    history = []
    cookies = RequestsCookieJar()
    elapsed = timedelta(0)
    # A `requests` session follows what calls itself a redirect.
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
        """The raw header block of the final answer, status line first."""
        self._content = body
        self.status_code = status
        self.request = request
        self.url = request.url or ""
        self.truncated = is_truncated
        """Whether the body is longer than what was read of it."""

    @cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        joined: dict[str, str] = {}
        for name, value in answer_pairs(self.head):
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        return CaseInsensitiveDict(joined)


class HeaderBlock(CaseInsensitiveDict[str]):
    """Request headers as the lines libcurl takes, made into a dictionary when somebody asks."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines

    def __repr__(self) -> str:
        """Names only: values may be credentials."""
        return f"HeaderBlock({[name for name, _ in header_pairs(self.lines)]})"

    @cached_property
    def _store(self) -> dict[str, tuple[str, str]]:
        return {name.lower(): (name, value) for name, value in header_pairs(self.lines)}


class Post(PreparedRequest):
    """A POST whose parts are ready; nothing of it is parsed, encoded or copied again."""

    method = "POST"
    headers: HeaderBlock
    hooks = {}
    _cookies = None
    _body_position = None

    def __init__(self, url: str, body: bytes, headers: HeaderBlock) -> None:
        self.url = url
        self.body = body
        self.headers = headers


class Draft(PreparedRequest):
    """A POST that is built, and signed, no sooner than it is handed to libcurl.

    `build` is called once the host's addresses are known; it returns the request, to this URL, or
    None where it may not be sent any more. `is_current` is asked when the connection is there and
    the request was built some time ago: whether it may still be sent as it was built. Both are
    called on the sender's thread; neither may raise, nor wait in a MultiSender.
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
    """Return the draft of a request that is built already, and current for ever."""
    if isinstance(request, Draft):
        return request
    return Draft(request.url or "", lambda: request, lambda: True)


def request_target(url: str) -> str:
    """Return a URL's path and query, letter by letter."""
    rest = url.partition("://")[2]
    target = rest[len(rest.replace("?", "/", 1).partition("/")[0]) :]
    return target if target.startswith("/") else f"/{target}"


def header_line(name: str, value: str) -> bytes:
    """Return a header as libcurl takes it; `Name;` sends an empty value."""
    return (f"{name}: {value}" if value else f"{name};").encode("latin-1")


def header_pairs(lines: Iterable[bytes]) -> list[tuple[str, str]]:
    """Return the names and values of header lines; what is not one is passed over."""
    pairs = []
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            pairs.append((name, value.strip(" \t")))
        elif name.endswith(";"):
            pairs.append((name[:-1], ""))
    return pairs


def answer_pairs(head: bytes) -> list[tuple[str, str]]:
    """Return the headers of an answer's head, in their order, without its status line."""
    return header_pairs(head.splitlines()[1:])


def _last_block(blocks: bytes) -> bytes:
    """Return the header block of the final answer; those before it belong to interim ones."""
    return blocks[blocks.rfind(b"\nHTTP/") + 1 :]
