"""The report of a run: one self-contained HTML page, and the same figures as a JSON-able summary.

Both are pure functions of [`ReportData`][pipelines.report_data.ReportData].
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipelines import report_figures as figures
from pipelines.report_data import (
    NO_GRID,
    Accounting,
    CeilingRow,
    Difference,
    GateRow,
    GridRow,
    LossCurve,
    Measure,
    Picture,
    PictureGrid,
    ReportData,
    ReportError,
    ScoreRow,
    ScoreTable,
    check,
)

__all__ = [
    "Accounting",
    "CeilingRow",
    "Difference",
    "GateRow",
    "GridRow",
    "LossCurve",
    "Measure",
    "Picture",
    "PictureGrid",
    "ReportData",
    "ReportError",
    "ScoreRow",
    "ScoreTable",
    "render_report",
    "summary",
]

MAX_BYTES = 2_000_000
PICTURE_SIDES = (224, 160, 112, 80, 56)
"""Longest sides tried, largest first, until the page fits `MAX_BYTES`."""

TEMPLATE = "report_template.html.jinja"


def render_report(data: ReportData) -> str:
    """Render the page: HTML under `MAX_BYTES` bytes with every picture inside, no script, nothing fetched.

    Raises:
        ReportError: for figures that cannot be true, an unreadable picture, or a page that stays too large with the
            smallest pictures.
    """
    check(data)
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    words: dict[str, Any] = {f.__name__: f for f in (score, signed, interval, duration, measure)}
    environment.filters.update(words)
    template = environment.get_template(TEMPLATE)
    context = _context(data)
    grids = (data.prompt_grid, data.reconstruction_grid, data.edit_grid)
    size = 0
    for side in PICTURE_SIDES:
        html = template.render(context, grids=[_embed(g, side) for g in grids])
        size = len(html.encode())
        if size < MAX_BYTES:
            return html
    raise ReportError(
        f"the report is {size} bytes with pictures of {PICTURE_SIDES[-1]} pixels; the limit is {MAX_BYTES}. "
        "Give fewer grid rows."
    )


def _context(data: ReportData) -> dict[str, Any]:
    nodes = {node.name: node for node in data.run.nodes}
    recorded = {"run": data.run.run_id, "store": data.run.store}
    return {
        "data": data,
        "findings": {name: keep_together(text) for name, text in asdict(findings(data)).items()},
        "costs": costs(data),
        "core_sources": ", ".join(sorted({node.core_source for node in data.run.nodes if node.core_source})),
        "recipe": flatten(data.run.recipe),
        "provenance": recorded | flatten(data.run.environment) | dict(data.provenance),
        "graph": figures.layout_graph(
            {name: node.upstream for name, node in nodes.items()},
            {name: max(len(name), len(f"reused · {duration(node.wall_s)}")) for name, node in nodes.items()},
        ),
        "nodes": nodes,
        "forest": figures.forest((data.scores.overall, data.scores.strict, *data.scores.tasks)),
        "panels": [figures.loss_panel(curve) for curve in data.curves],
        "figures": figures,
    }


def summary(data: ReportData) -> dict[str, Any]:
    """The figures of the page without its pictures, as plain JSON types.

    Raises:
        ReportError: for figures that cannot be true.
    """
    check(data)
    plain = plain_json(replace(data, prompt_grid=NO_GRID, reconstruction_grid=NO_GRID, edit_grid=NO_GRID, curves=()))
    for left_out in ("prompt_grid", "reconstruction_grid", "edit_grid", "curves", *(() if data.edits else ("edits",))):
        del plain[left_out]
    panels = [figures.loss_panel(curve) for curve in data.curves]
    plain["benchmark"] = "MiniGenEval"
    plain["loss"] = {panel.term: {"first": panel.first, "last": panel.last} for panel in panels}
    plain["costs"] = plain_json(costs(data))
    plain["findings"] = plain_json(findings(data))
    if not data.edits:
        del plain["findings"]["edits"]
    return plain


def plain_json(value: object) -> dict[str, Any]:
    """A dataclass as dictionaries, lists, text and numbers, as if read back from its JSON file."""
    return msgspec.json.decode(msgspec.json.encode(value))


@dataclass(frozen=True)
class Findings:
    """What the figures say, in words: one sentence for each part of the page."""

    overall: str
    strict: str
    tasks: str
    objects: str
    understanding: str
    reconstruction: str
    gates: str
    ceiling: str
    cost: str
    edits: str


def findings(data: ReportData) -> Findings:
    """Put the figures into words; a difference is claimed only where its 95 % interval excludes 0."""
    scores = data.scores
    failed = [gate.name for gate in data.gates if not gate.passed]
    spent = costs(data)
    worst_junk = max(data.ceilings, key=lambda row: row.junk, default=None)
    return Findings(
        overall=difference_sentence(
            "MiniGenEval overall", scores.overall.before, scores.overall.after, scores.overall.difference
        ),
        strict=difference_sentence("Strict score", scores.strict.before, scores.strict.after, scores.strict.difference),
        tasks=_task_sentence(scores.tasks),
        objects=f"Objects per picture {scores.objects_before:.2f} → {scores.objects_after:.2f}",
        understanding=_measure_sentence("Understanding", data.understanding),
        reconstruction=_measure_sentence("Reconstruction", data.reconstruction),
        gates=f"{len(failed)} of {len(data.gates)} gates failed: {', '.join(failed)}"
        if failed
        else f"All {len(data.gates)} gates passed before training",
        ceiling=f"The scorer passes at most {worst_junk.junk * 100:.1f} % of junk pictures ({worst_junk.task})"
        if worst_junk
        else "",
        cost=f"{spent.executed} of {len(data.run.nodes)} stages executed for {spent.executed_core_s:,.0f} "
        f"core-seconds; {spent.reused} reused, which had cost {spent.reused_core_s:,.0f}",
        edits=_measure_sentence("Editing", data.edits),
    )


def difference_sentence(name: str, before: float, after: float, difference: Difference) -> str:
    """State a difference in one sentence, as plainly when it is a loss or none as when it is a gain."""
    figures_text = f"{score(before)} → {score(after)}, {signed(difference.value)} {interval(difference)}"
    match difference.verdict:
        case "gain":
            return f"{name} rose: {figures_text}; the 95 % interval excludes 0"
        case "loss":
            return f"{name} fell: {figures_text}; the 95 % interval excludes 0"
        case "none":
            return f"{name}, no difference shown: {figures_text}; the 95 % interval includes 0"


def _task_sentence(tasks: Sequence[ScoreRow]) -> str:
    parts: list[str] = []
    for verdict, words in (("gain", "Higher"), ("loss", "Lower"), ("none", "No difference shown")):
        named = [row for row in tasks if row.difference.verdict == verdict]
        named.sort(key=lambda row: -abs(row.difference.value))
        if named:
            parts.append(f"{words}: {', '.join(f'{row.task} {signed(row.difference.value)}' for row in named)}")
    return ". ".join(parts)


def _measure_sentence(room: str, measures: Sequence[Measure]) -> str:
    if not measures:
        return f"{room} was not measured"
    first = measures[0]
    if first.difference is not None:
        return difference_sentence(f"{room} ({first.name})", first.before, first.after, first.difference)
    return (
        f"{room} ({first.name}): {measure(first.before, first.unit)} → {measure(first.after, first.unit)} (no interval)"
    )


@dataclass(frozen=True)
class Costs:
    """Stages executed in this run and stages reused, with wall seconds and core-seconds when they were computed.

    `device_hours` are the GPU hours of all of them; 0 on CPUs.
    """

    executed: int
    executed_wall_s: float
    executed_core_s: float
    reused: int
    reused_wall_s: float
    reused_core_s: float
    device_hours: float


def costs(data: ReportData) -> Costs:
    """Sum the cost of the stages by whether this run executed or reused them."""
    executed = [node for node in data.run.nodes if node.decision == "run"]
    reused = [node for node in data.run.nodes if node.decision != "run"]
    return Costs(
        executed=len(executed),
        executed_wall_s=sum(node.wall_s for node in executed),
        executed_core_s=sum(node.core_s for node in executed),
        reused=len(reused),
        reused_wall_s=sum(node.wall_s for node in reused),
        reused_core_s=sum(node.core_s for node in reused),
        device_hours=sum(node.gpu_s for node in data.run.nodes) / 3600,
    )


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Turn a nested configuration into dotted names and their values in words, in the order given."""
    flat: dict[str, str] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return flat


def score(value: float) -> str:
    """A score or share with three decimals."""
    return f"{value:.3f}".replace("-", figures.MINUS)


def signed(value: float) -> str:
    """A difference with its sign and three decimals; one that rounds to 0 has no sign."""
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", figures.MINUS)


def interval(difference: Difference) -> str:
    """The 95 % interval in brackets."""
    return f"[{score(difference.low)}, {score(difference.high)}]"


def keep_together(text: str) -> str:
    """Put no-break spaces into intervals and before per cent signs, so that no line ends inside them."""
    return re.sub(r"\[[^\]]*\]|\d %", lambda found: found[0].replace(" ", "\u00a0"), text)


def measure(value: float, unit: str) -> str:
    """A value of the understanding or reconstruction table: a share, or decibels with one decimal."""
    return score(value) if unit == "share" else f"{value:.1f} dB"


def duration(seconds: float) -> str:
    """Seconds in words: `8.4 s`, `4 min 12 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True)
class _Cell:
    column: str
    uri: str
    alt: str
    passed: bool | None
    note: str


@dataclass(frozen=True)
class _Grid:
    caption: str
    columns: int
    rows: tuple[tuple[str, tuple[_Cell, ...]], ...]


def _embed(grid: PictureGrid, side: int) -> _Grid:
    def cell(label: str, column: str, picture: Picture) -> _Cell:
        verdict = {None: "", True: "; passes", False: "; fails"}[picture.passed]
        note = f" ({picture.note})" if picture.note else ""
        uri = figures.embed_picture(picture.data, f"picture {column!r} of {label!r}", side)
        return _Cell(column, uri, f"{column}: {label}{verdict}{note}", picture.passed, picture.note)

    rows = tuple(
        (row.label, tuple(cell(row.label, *pair) for pair in zip(grid.columns, row.pictures, strict=True)))
        for row in grid.rows
    )
    return _Grid(grid.caption, len(grid.columns), rows)
