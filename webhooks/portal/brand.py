"""The accent colour of the portal, in shades that can be read on light and on dark."""

from django.conf import settings

LIGHT = (255, 255, 255)
DARK = (17, 21, 29)
"""The backgrounds, as in portal.css."""
ENOUGH = 4.5
"""Contrast of text, as WCAG 2.2 AA asks for."""
STEP = 0.05

Color = tuple[int, int, int]


def stylesheet() -> str:
    """Return the custom properties that portal.css reads."""
    accent = _parsed(settings.WEBHOOKS_PORTAL_ACCENT)
    on_light, on_dark = _readable(accent, LIGHT), _readable(accent, DARK)
    values = {
        "--accent": accent,
        "--on-accent": max(((255, 255, 255), (0, 0, 0)), key=lambda one: contrast(one, accent)),
        "--accent-on-light": on_light,
        "--accent-on-dark": on_dark,
    }
    lines = [
        f"  {name}: #{red:02x}{green:02x}{blue:02x};" for name, (red, green, blue) in values.items()
    ]
    return "\n".join([":root {", *lines, "}", ""])


def _readable(color: Color, background: Color) -> Color:
    """Return the colour, mixed with black or white until it can be read on a background."""
    target = (0, 0, 0) if _luminance(background) > 0.5 else (255, 255, 255)
    share, mixed = 0.0, color
    while contrast(mixed, background) < ENOUGH and share < 1:
        share += STEP
        mixed = tuple(
            round(one + (other - one) * share) for one, other in zip(color, target, strict=True)
        )  # type: ignore[assignment]
    return mixed


def contrast(one: Color, other: Color) -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2.2)."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: Color) -> float:
    shares = [part / 255 for part in color]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _parsed(text: str) -> Color:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
