"""The report of an evaluation on published benchmarks: figures as JSON, tables as Markdown, one self-contained page."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reca.evaluation.benchmark import Totals
from reca.evaluation.gallery import Shown
from reca.evaluation.statistics import OVERALL, Estimate

TEMPLATE = "benchmark_template.html.jinja"

Differences = Mapping[str, Mapping[str, Estimate]]
"""Measure -> group -> second side minus first, with its interval."""


@dataclass(frozen=True)
class Side:
    """One checkpoint, or one folder of pictures, on one benchmark.

    Attributes:
        label: its name in the tables.
        totals: its scores.
        settings: how it was drawn or asked.
        gallery: a few judged pictures.
    """

    label: str
    totals: Totals
    settings: Mapping[str, str]
    gallery: Sequence[Shown] = ()


@dataclass(frozen=True)
class Section:
    """One benchmark.

    Attributes:
        name: key of the benchmark.
        sides: one, or two that are compared.
        differences: of the two sides; None with one side.
    """

    name: str
    sides: tuple[Side, ...]
    differences: Differences | None = None

    @property
    def title(self) -> str:
        """Name that may stand beside the numbers: that of the side with the most against it."""
        return min(self.sides, key=lambda side: side.totals.complete).totals.benchmark


@dataclass(frozen=True)
class Table:
    """A table of words.

    Attributes:
        caption: what it shows.
        heading: names of the columns.
        rows: cells.
    """

    caption: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def summary(sections: Sequence[Section]) -> dict[str, Any]:
    """All figures as plain JSON types."""
    return {
        "benchmarks": {
            section.name: {
                "sides": {side.label: _side_summary(side) for side in section.sides},
                **({} if section.differences is None else {"differences": msgspec.to_builtins(section.differences)}),
            }
            for section in sections
        }
    }


def markdown(sections: Sequence[Section], title: str) -> str:
    """The tables as Markdown."""
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for table in tables(section):
            lines += [f"**{table.caption}**", "", _row(table.heading), _row(["---"] * len(table.heading))]
            lines += [*map(_row, table.rows), ""]
        lines += [f"- {note}" for note in notes(section)] + [""]
    return "\n".join(lines)


def page(sections: Sequence[Section], title: str) -> str:
    """The page: HTML with every picture inside, no script, nothing fetched."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    parts = [{"section": s, "tables": list(tables(s)), "notes": notes(s)} for s in sections]
    return environment.get_template(TEMPLATE).render(title=title, parts=parts)


def data_uri(jpeg: bytes) -> str:
    """A picture as a link that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def tables(section: Section) -> Iterator[Table]:
    """The tables of a benchmark: the number with all that must be read beside it, each measure by group, settings."""
    heading = ("", "score", "95 % interval", "official script", "at least", "items", "pictures", "unscored", "missing")
    yield Table("Score", (*heading, "judge"), tuple(_headline(side) for side in section.sides))
    for measure, groups in section.sides[0].totals.strict.items():
        yield _measure_table(section, measure, list(groups))
    names = list(dict.fromkeys(name for side in section.sides for name in side.settings))
    if names:
        rows = ((name, *(side.settings.get(name, "") for side in section.sides)) for name in names)
        yield Table("Settings", ("", *(side.label for side in section.sides)), tuple(rows))


def notes(section: Section) -> list[str]:
    """What a reader of the numbers must know."""
    several = len(section.sides) > 1
    return [f"{side.label}: {note}" if several else note for side in section.sides for note in side.totals.notes]


def _side_summary(side: Side) -> dict[str, Any]:
    totals = side.totals
    return {
        "title": totals.benchmark,
        "score": totals.score(),
        "official_score": totals.score(official=True),
        "complete": totals.complete,
        "settings": dict(side.settings),
        **msgspec.to_builtins(totals),
    }


def _headline(side: Side) -> tuple[str, ...]:
    totals = side.totals
    estimate = totals.strict[totals.headline][OVERALL]
    counts = (totals.items, totals.pictures, totals.unscored, totals.missing)
    return (
        side.label,
        _number(None if estimate is None else estimate.value),
        _interval(estimate),
        _number(totals.score(official=True)),
        _number(totals.floor),
        *(f"{count:,}" for count in counts),
        totals.judge,
    )


def _measure_table(section: Section, measure: str, groups: Sequence[str]) -> Table:
    heading = ["", "items"]
    for side in section.sides:
        heading += [side.label, "95 % interval", "official script"]
    found = None if section.differences is None else section.differences.get(measure, {})
    if found is not None:
        heading += ["difference", "95 % interval"]
    rows: list[tuple[str, ...]] = []
    for group in groups:
        sides = [side.totals.strict.get(measure, {}).get(group) for side in section.sides]
        cells = [group, next((f"{e.prompts:,}" for e in sides if e is not None), "0")]
        for side, estimate in zip(section.sides, sides, strict=True):
            official = side.totals.official.get(measure, {}).get(group)
            cells += [_number(None if estimate is None else estimate.value), _interval(estimate), _number(official)]
        if found is not None:
            change = found.get(group)
            cells += ["" if change is None else f"{change.value:+.3f}", _interval(change)]
        rows.append(tuple(cells))
    return Table(f"By group: {measure}", tuple(heading), tuple(rows))


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _interval(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.low:.3f} to {estimate.high:.3f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
