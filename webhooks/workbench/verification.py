"""What a receiver's developer needs to verify signatures: tested snippets, and masked secrets."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from webhooks.models import SigningSecret

SNIPPETS = Path(__file__).parent / "snippets"
LANGUAGES = {
    "Python": "python/verify.py",
    "Node.js": "node/verify.mjs",
    "Go": "go/verify.go",
    "Java": "java/Verify.java",
    "PHP": "php/verify.php",
    "Ruby": "ruby/verify.rb",
    "Perl": "perl/verify.pl",
    "Bash": "bash/verify.sh",
}


@dataclass(frozen=True, slots=True)
class Snippet:
    """A program that verifies a request, in one language."""

    language: str
    slug: str
    code: str


@cache
def snippets() -> tuple[Snippet, ...]:
    """Return the snippets as they stand in the documentation and are tested."""
    return tuple(
        Snippet(language, file.split("/")[0], (SNIPPETS / file).read_text())
        for language, file in LANGUAGES.items()
    )


def mask(secret: SigningSecret) -> str | None:
    """Return the prefix and the last four characters, which are enough to tell secrets apart.

    None where no key of this installation can decrypt it.
    """
    value = secret.readable_value
    return None if value is None else f"whsec_••••••••{value.rstrip('=')[-4:]}"
