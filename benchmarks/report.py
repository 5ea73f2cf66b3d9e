"""Write docs/performance.md and its plots from the results of benchmarks: `python -m benchmarks.report`.

Reads var/bench.json, which `python -m benchmarks` writes and adds to. Each plot comes twice, for a
light and a dark page.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.results import RESULTS
from config.services import BASE_DIR

PAGE = BASE_DIR / "docs" / "performance.md"
NOTES = BASE_DIR / "docs" / "performance-notes.md"
PLOTS = BASE_DIR / "docs" / "performance"
THEMES = {
    "light": {"ink": "#1f2328", "paper": "#ffffff", "grid": "#d0d7de"},
    "dark": {"ink": "#e6edf3", "paper": "#0d1117", "grid": "#30363d"},
}
SERIES_COLOUR = "#2f81f7"
YARDSTICK_COLOUR = "#8b949e"
YARDSTICKS = ("bare", "one RQ job", "django-webhook", "COPY", "alone", "nobody busy")
"""How the names of what we measure ourselves by begin or go on."""

HEAD = """\
# Performance

Made by `make bench-report` from {when}; every figure is the median of its rounds, with the lowest
and the highest in brackets. Machine: {machine}. Durability as in production ({durability}).
Absolute figures hold for this machine on that day; the ratios, measured in turn in the same run,
are what to compare.

"""


def main() -> None:
    results = json.loads(RESULTS.read_text())
    PLOTS.mkdir(exist_ok=True)
    tables = list(_tables(results["scenarios"]))
    parts = [_head(results), _goals(tables)]
    for name, table in tables:
        parts.append(_section(name, table))
        for theme, colours in THEMES.items():
            _plot(table, PLOTS / f"{name}-{theme}.svg", colours)
    if NOTES.exists():
        parts.append(NOTES.read_text())
    PAGE.write_text("\n".join(parts))
    print(f"Written to {PAGE.relative_to(BASE_DIR)}, with {2 * len(tables)} plots beside it.")


def _tables(scenarios: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every table with a name for its files; a scenario may have several."""
    for name, found in scenarios.items():
        if "series" in found:
            yield name, found
        else:
            for part, table in found.items():
                yield f"{name}-{re.sub('[^a-z0-9]+', '-', part.lower())}", table


def _head(results: Mapping[str, Any]) -> str:
    facts = dict(results["machine"])
    durability = ", ".join(f"{k} {v}" for k, v in facts.pop("durability").items())
    machine = ", ".join(f"{name} {value}" for name, value in facts.items() if name != "load")
    return HEAD.format(when=results["when"], machine=machine, durability=durability)


def _goals(tables: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    lines = ["| what | figure | goal | |", "| --- | ---: | ---: | --- |"]
    for _, table in tables:
        for goal in table["goals"]:
            if goal["goal"] is not None:
                sign = "≤" if goal["atMost"] else "≥"
                lines.append(
                    f"| {table['title'].partition(', ')[0]}: {goal['what']} | {_number(goal['figure'])}"
                    f" | {sign} {_number(goal['goal'])} | {'met' if goal['met'] else '**not met**'} |"
                )
    return "## Goals\n\n" + "\n".join(lines) + "\n"


def _section(name: str, table: Mapping[str, Any]) -> str:
    lines = [
        f"## {table['title']}",
        "",
        "<picture>",
        f'  <source media="(prefers-color-scheme: dark)" srcset="performance/{name}-dark.svg">',
        f'  <img alt="{table["title"]}" src="performance/{name}-light.svg">',
        "</picture>",
        "",
        "| measured | median | from … to |",
        "| --- | ---: | --- |",
    ]
    for one in table["series"]:
        low, high = _number(min(one["values"])), _number(max(one["values"]))
        lines.append(f"| {one['name']} | {_number(one['median'])} {one['unit']} | {low} … {high} |")
    lines += [f"| **{goal['what']}** | {_number(goal['figure'])} | |" for goal in table["goals"]]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}".rstrip("0").rstrip(".")


def _plot(table: Mapping[str, Any], path: Path, colours: Mapping[str, str]) -> None:
    """Draw a panel of bars for each unit, with a line from the lowest to the highest round."""
    units = list(dict.fromkeys(one["unit"] for one in table["series"]))
    groups = [[one for one in table["series"] if one["unit"] == unit] for unit in units]
    sizes = [len(group) + 0.8 for group in groups]
    style = {
        "font.size": 9,
        "svg.hashsalt": path.name,
        "text.color": colours["ink"],
        "axes.labelcolor": colours["ink"],
        "axes.facecolor": colours["paper"],
        "axes.edgecolor": colours["grid"],
        "xtick.color": colours["ink"],
        "ytick.color": colours["ink"],
        "grid.color": colours["grid"],
        "figure.facecolor": colours["paper"],
    }
    with mpl.rc_context(style):
        figure, axes = plt.subplots(
            len(groups),
            figsize=(8, 0.33 * sum(sizes) + 0.7),
            height_ratios=sizes,
            squeeze=False,
            layout="constrained",
        )
        for panel, unit, group in zip(axes[:, 0], units, groups, strict=True):
            _draw(panel, unit, group, colours["ink"])
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _draw(panel: Axes, unit: str, group: Sequence[Mapping[str, Any]], ink: str) -> None:
    names = [one["name"] for one in group]
    medians = [one["median"] for one in group]
    spread = [
        [one["median"] - min(one["values"]) for one in group],
        [max(one["values"]) - one["median"] for one in group],
    ]
    colours = [
        YARDSTICK_COLOUR if any(sign in name for sign in YARDSTICKS) else SERIES_COLOUR
        for name in names
    ]
    bars = panel.barh(names, medians, xerr=spread, color=colours, ecolor=ink, height=0.62)
    panel.bar_label(bars, [f" {_number(value)}" for value in medians], padding=4)
    panel.invert_yaxis()
    panel.set_xlabel(unit or "count")
    panel.margins(x=0.14)
    panel.grid(axis="x")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
