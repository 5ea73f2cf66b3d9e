"""What people take away as a file."""

from django.http import HttpResponse


def as_file(content: bytes, name: str) -> HttpResponse:
    """Return bytes as a download that no browser renders as a page."""
    return HttpResponse(
        content,
        content_type="text/plain; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "X-Content-Type-Options": "nosniff",
        },
    )
