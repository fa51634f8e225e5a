"""The report of an evaluation on published benchmarks: figures as JSON, tables as Markdown, one self-contained page."""

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipelines.benchmark_artifacts import EXTRA, MADE, REFUSED
from reca.evaluation.benchmark import Differences, Totals
from reca.evaluation.gallery import Shown
from reca.evaluation.published import difference_in_kind, reported
from reca.evaluation.statistics import OVERALL, Estimate

TEMPLATE = "benchmark_template.html.jinja"

INTERVAL = "95 % interval"


@dataclass(frozen=True)
class Side:
    """One checkpoint, or one folder of pictures, on one benchmark.

    Attributes:
        label: its name in the tables.
        totals: its scores.
        gallery: a few judged pictures.
    """

    label: str
    totals: Totals
    gallery: Sequence[Shown] = ()


@dataclass(frozen=True)
class Section:
    """One benchmark.

    Attributes:
        name: key of the benchmark.
        sides: one, or two that are compared.
        differences: of the two sides; None with one side.
        family: of the models; empty for pictures made elsewhere.
    """

    name: str
    sides: tuple[Side, ...]
    differences: Differences | None = None
    family: str = ""

    @property
    def pictures(self) -> dict[str, list[Shown | None]]:
        """Shown pictures by item, one for each side in its order; None where a side has none of the item."""
        found = [{shown.item: shown for shown in side.gallery} for side in self.sides]
        return {item: [gallery.get(item) for gallery in found] for item in dict.fromkeys(i for g in found for i in g)}

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
        words: whether the cells are words, which stand at the left; numbers stand at the right.
    """

    caption: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: bool = False


def summary(sections: Sequence[Section]) -> dict[str, Any]:
    """All figures as plain JSON types."""
    return {
        "benchmarks": {
            section.name: {
                "sides": {side.label: _side_summary(side) for side in section.sides},
                **({} if section.differences is None else {"differences": msgspec.to_builtins(section.differences)}),
                **_paper_summary(section),
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
    heading = ("", "score", INTERVAL, "official script", "at least", "items", "pictures", "unscored", "missing")
    yield Table(f"{section.title}: score", (*heading, "judge"), tuple(_headline(side) for side in section.sides))
    measures = dict.fromkeys(m for side in section.sides for m in side.totals.strict | side.totals.official)
    for measure in measures:
        yield _measure_table(section, measure)
    if names := _settings(section):
        rows = ((name, *(str(side.totals.settings.get(name, "")) for side in section.sides)) for name in names)
        yield Table(
            f"{section.title}: settings", ("", *(side.label for side in section.sides)), tuple(rows), words=True
        )
    yield from _paper_table(section)


def unlike(section: Section) -> list[str]:
    """What two sides that are compared do not have in common, besides the model."""
    rows = {
        name: [str(side.totals.settings.get(name, "none" if name == EXTRA else "not known")) for side in section.sides]
        for name in _settings(section)
        if name not in (MADE, REFUSED)
    }
    rows["number of judged pictures"] = [f"{side.totals.pictures:,}" for side in section.sides]
    return [
        f"{section.title}: not the same {name}: "
        + " and ".join(f"{value} ({side.label})" for value, side in zip(values, section.sides, strict=True))
        + "; the difference is not of the models alone"
        for name, values in rows.items()
        if len(set(values)) > 1
    ]


def notes(section: Section) -> list[str]:
    """What a reader of the numbers must know."""
    several = len(section.sides) > 1
    lines = unlike(section)
    lines += [f"{side.label}: {note}" if several else note for side in section.sides for note in side.totals.notes]
    if section.differences is not None:
        labels = [side.label for side in section.sides]
        lines.append(
            f"differences are {labels[1]} minus {labels[0]}, over {section.differences.pictures:,} pictures that are "
            f"scored on both sides; {section.differences.left_out:,} are left out"
        )
    return lines


def _settings(section: Section) -> list[str]:
    return list(dict.fromkeys(name for side in section.sides for name in side.totals.settings))


def _side_summary(side: Side) -> dict[str, Any]:
    totals = side.totals
    return {
        "title": totals.benchmark,
        "score": totals.score(),
        "official_score": totals.score(official=True),
        "complete": totals.complete,
        **msgspec.to_builtins(totals),
    }


def _paper_summary(section: Section) -> dict[str, Any]:
    rows = reported(section.family, section.name)
    if not rows:
        return {}
    reason = difference_in_kind(section.name, [side.totals for side in section.sides])
    return {"paper": {"not_comparable": reason, "rows": [msgspec.to_builtins(row) for row in rows]}}


def _headline(side: Side) -> tuple[str, ...]:
    totals = side.totals
    estimate = totals.strict[totals.headline][OVERALL]
    counts = (totals.items, totals.pictures, totals.unscored, totals.missing)
    return (
        side.label,
        _value(estimate),
        _interval(estimate),
        _number(totals.score(official=True)),
        _number(totals.floor),
        *(f"{count:,}" for count in counts),
        totals.judge,
    )


def _measure_table(section: Section, measure: str) -> Table:
    pairs = [(s.totals.strict.get(measure, {}), s.totals.official.get(measure, {})) for s in section.sides]
    groups = dict.fromkeys(group for strict, official in pairs for group in strict | official)
    labels = [side.label for side in section.sides]
    found = None if section.differences is None else section.differences.tables.get(measure, {})
    heading = ["", "items", *(word for label in labels for word in (label, INTERVAL))]
    if found is not None:
        heading += ["difference", INTERVAL]
    heading += ["official script" if len(labels) == 1 else f"official script, {label}" for label in labels]
    rows: list[tuple[str, ...]] = []
    for group in groups:
        cells = [group, next((f"{e.prompts:,}" for strict, _ in pairs if (e := strict.get(group)) is not None), "")]
        for strict, _ in pairs:
            cells += [_value(strict.get(group)), _interval(strict.get(group))]
        if found is not None:
            change = found.get(group)
            cells += ["" if change is None else f"{change.value:+.3f}", _interval(change)]
        cells += [_number(official.get(group)) for _, official in pairs]
        rows.append(tuple(cells))
    return Table(f"{section.title}: {measure} by group", tuple(heading), tuple(rows))


def _paper_table(section: Section) -> Iterator[Table]:
    """What RecA's authors report for the family, with the reason where that is another kind of figure."""
    rows = reported(section.family, section.name)
    if not rows:
        return
    reason = difference_in_kind(section.name, [side.totals for side in section.sides])
    comparable = f"not comparable: {reason}" if reason else "same judge and edition; compare the settings"
    yield Table(
        f"Paper: reported by RecA's authors (arXiv 2509.07295), not measured here; {comparable}",
        ("paper", "before", "after RecA", "settings", "source"),
        tuple((r.model, _number(r.before), _number(r.after), r.settings, r.source) for r in rows),
        words=True,
    )


def _value(estimate: Estimate | None) -> str:
    return _number(None if estimate is None else estimate.value)


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _interval(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.low:.3f} to {estimate.high:.3f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
