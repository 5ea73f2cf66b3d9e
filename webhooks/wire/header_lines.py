"""Header lines as libcurl takes and gives them; loads no `requests`, which web processes do not need."""

from collections.abc import Iterable


def header_line(name: str, value: str) -> bytes:
    """Return a header line for libcurl, where `Name;` stands for an empty value."""
    return (f"{name}: {value}" if value else f"{name};").encode("latin-1")


def header_pairs(lines: Iterable[bytes]) -> list[tuple[str, str]]:
    """Return the names and values of header lines; skip lines that are no header."""
    pairs = []
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            pairs.append((name, value.strip(" \t")))
        elif name.endswith(";"):
            pairs.append((name[:-1], ""))
    return pairs


def answer_pairs(head: bytes) -> list[tuple[str, str]]:
    """Return the headers of a response's head, in order, without the status line."""
    return header_pairs(head.splitlines()[1:])
