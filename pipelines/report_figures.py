"""Geometry of the report's drawings: the stage graph, loss panels, the interval plot, and re-encoded pictures.

Every function returns plain numbers and SVG path strings; the template draws them. Lengths are SVG units (CSS pixels).
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipelines.report_data import LossCurve, ReportError, ScoreRow, Verdict

MINUS = "\u2212"
"""The minus sign as printed, as wide as a plus."""

BOX_HEIGHT = 46
LAYER_GAP = 44
ROW_GAP = 18
LANE_HEIGHT = 10
"""Height kept free where an edge passes a layer between two boxes."""

PANEL_WIDTH, PANEL_HEIGHT = 340, 210
PANEL_LEFT, PANEL_BOTTOM, PANEL_TOP, PANEL_RIGHT = 44, 30, 10, 10
LONGEST_RAW_LINE = 400
"""Points drawn per raw loss line; longer curves are averaged in equal buckets (400 points are under 5 kB of path)."""

FOREST_WIDTH, FOREST_ROW = 520, 30


Item = str | tuple[str, str, int]
"""What stands in a layer: a stage, or the lane of an edge (from, to, layer)."""


@dataclass(frozen=True)
class Box:
    """A stage in the graph: its name, top left corner and width; every box is `BOX_HEIGHT` high."""

    name: str
    x: float
    y: float
    width: float


@dataclass(frozen=True)
class GraphLayout:
    """Boxes and edges (SVG paths) of a graph drawn from left to right."""

    boxes: tuple[Box, ...]
    edges: tuple[str, ...]
    width: float
    height: float


def layout_graph(upstream: Mapping[str, Sequence[str]], widest: Mapping[str, int]) -> GraphLayout:
    """Lay out an acyclic graph in layers from left to right.

    Layer = longest path from a source; sources move right next to their first consumer; an edge over several layers
    keeps a free lane in each; rows are ordered by the mean row of their neighbours (Sugiyama's method, four sweeps).

    Args:
        upstream: for each stage the stages it takes its inputs from; names that are not keys are left out.
        widest: for each stage the characters of its longest line of text.

    Raises:
        ReportError: when the stages form a cycle.
    """
    known = {name: [up for up in ups if up in upstream] for name, ups in upstream.items()}
    depth = _layers(known)
    layers: list[list[Item]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    for name in known:
        layers[depth[name]].append(name)
    chains: list[list[Item]] = []
    for up, name in [(up, name) for name, ups in known.items() for up in ups]:
        lanes: list[Item] = [(up, name, layer) for layer in range(depth[up] + 1, depth[name])]
        for layer, lane in enumerate(lanes, start=depth[up] + 1):
            layers[layer].append(lane)
        chains.append([up, *lanes, name])
    links = [(a, b) for chain in chains for a, b in pairwise(chain)]
    _order_rows(layers, links)
    return _place(layers, chains, {name: 22 + 7.0 * widest[name] for name in known})


def _layers(upstream: Mapping[str, Sequence[str]]) -> dict[str, int]:
    depth: dict[str, int] = {}
    waiting = list(upstream)
    while waiting:
        ready = [name for name in waiting if all(up in depth for up in upstream[name])]
        if not ready:
            raise ReportError(f"the stages {', '.join(sorted(waiting))} wait for each other; a graph has no cycle.")
        depth.update({name: 1 + max((depth[up] for up in upstream[name]), default=-1) for name in ready})
        waiting = [name for name in waiting if name not in depth]
    for name in upstream:
        consumers = [depth[other] for other in upstream if name in upstream[other]]
        if consumers and not upstream[name]:
            depth[name] = min(consumers) - 1
    return depth


def _order_rows(layers: list[list[Item]], links: Sequence[tuple[Item, Item]]) -> None:
    for sweep in range(4):
        rows = {item: index - len(layer) / 2 for layer in layers for index, item in enumerate(layer)}
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            side = 0 if sweep % 2 == 0 else 1
            mean = {
                item: _mean([rows[link[side]] for link in links if link[1 - side] == item], rows[item])
                for item in layer
            }
            layer.sort(key=mean.__getitem__)
            rows.update({item: index - len(layer) / 2 for index, item in enumerate(layer)})


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _place(
    layers: Sequence[Sequence[Item]], chains: Sequence[Sequence[Item]], width: Mapping[str, float]
) -> GraphLayout:
    def height(item: Item) -> float:
        return BOX_HEIGHT if isinstance(item, str) else LANE_HEIGHT

    tallest = max((sum(height(i) + ROW_GAP for i in layer) - ROW_GAP for layer in layers), default=0)
    corners: dict[Item, tuple[float, float, float, float]] = {}
    left = 1.0
    for layer in layers:
        layer_width = max((width[item] for item in layer if isinstance(item, str)), default=0)
        top = 1 + (tallest - sum(height(i) + ROW_GAP for i in layer) + ROW_GAP) / 2
        for item in layer:
            corners[item] = (left, top, layer_width, height(item))
            top += height(item) + ROW_GAP
        left += layer_width + LAYER_GAP
    boxes = tuple(Box(item, *corners[item][:3]) for layer in layers for item in layer if isinstance(item, str))
    edges = tuple(_edge([corners[item] for item in chain]) for chain in chains)
    return GraphLayout(boxes, edges, left - LAYER_GAP + 1, tallest + 2)


def _edge(corners: Sequence[tuple[float, float, float, float]]) -> str:
    """Path from the right side of the first box to the left side of the last, straight through the lanes between."""
    path: list[str] = []
    for (x, y, w, h), (x2, y2, _, h2) in pairwise(corners):
        start, end, middle = (x + w, y + h / 2), (x2, y2 + h2 / 2), (x + w + x2) / 2
        path.append(f"{'L' if path else 'M'}{start[0]:.1f} {start[1]:.1f}")
        path.append(f"C{middle:.1f} {start[1]:.1f} {middle:.1f} {end[1]:.1f} {end[0]:.1f} {end[1]:.1f}")
    return "".join(path)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: position and text."""

    at: float
    text: str


@dataclass(frozen=True)
class LossPanel:
    """One term's curve: raw and smoothed path, ticks, and the mean of the first and last twentieth of the updates."""

    term: str
    raw: str
    smooth: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    first: float
    last: float


def loss_panel(curve: LossCurve) -> LossPanel:
    """Draw one loss curve in a panel of `PANEL_WIDTH` x `PANEL_HEIGHT`; updates start at 0, values at a round number.

    Raises:
        ReportError: when the curve is empty.
    """
    if not curve.values:
        raise ReportError(f"curves: {curve.term} has no points; leave the curve out or train at least one update.")
    x, y = np.asarray(curve.updates, dtype=float), np.asarray(curve.values, dtype=float)
    smooth = _moving_mean(y, max(1, len(y) // 40))
    x_ticks, y_ticks = nice_ticks(0.0, float(x[-1]), 4), nice_ticks(float(y.min()), float(y.max()), 4)
    low, high = min(y_ticks[0], float(y.min())), max(y_ticks[-1], float(y.max()))

    def across(value: float) -> float:
        return PANEL_LEFT + value / max(float(x[-1]), 1.0) * (PANEL_WIDTH - PANEL_LEFT - PANEL_RIGHT)

    def down(value: float) -> float:
        return PANEL_TOP + (high - value) / (high - low) * (PANEL_HEIGHT - PANEL_TOP - PANEL_BOTTOM)

    def path(values: np.ndarray) -> str:
        buckets = np.array_split(np.arange(len(values)), min(len(values), LONGEST_RAW_LINE))
        points = [(across(float(x[b].mean())), down(float(values[b].mean()))) for b in buckets]
        return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)

    edge = max(1, len(y) // 20)
    return LossPanel(
        term=curve.term,
        raw=path(y),
        smooth=path(smooth),
        x_ticks=tuple(Tick(across(v), f"{v:,.0f}") for v in x_ticks if v <= x[-1]),
        y_ticks=tuple(Tick(down(v), f"{v:g}") for v in y_ticks),
        first=float(y[:edge].mean()),
        last=float(y[-edge:].mean()),
    )


def _moving_mean(values: np.ndarray, half: int) -> np.ndarray:
    """Centred mean over `2 * half + 1` points, over fewer at both ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def nice_ticks(low: float, high: float, wanted: int) -> tuple[float, ...]:
    """About `wanted` round numbers (1, 2 or 5 times a power of ten apart) inside and just around `low` to `high`."""
    span = high - low if high > low else max(abs(high), 1.0)
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 5, 10) if power * f >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(i * step, 12) for i in range(first, max(last, first + 1) + 1))


@dataclass(frozen=True)
class ForestRow:
    """One line of the interval plot: heights and positions in the plot, and what the interval shows."""

    task: str
    y: float
    low: float
    mid: float
    high: float
    verdict: Verdict


@dataclass(frozen=True)
class Forest:
    """Differences with their intervals on one axis; `zero` is the position of no difference."""

    rows: tuple[ForestRow, ...]
    ticks: tuple[Tick, ...]
    zero: float
    height: float


def forest(rows: Sequence[ScoreRow]) -> Forest:
    """Place differences and intervals on a common axis `FOREST_WIDTH` wide that always holds 0."""
    ends = [0.0, *(end for row in rows for end in (row.difference.low, row.difference.high))]
    marks = nice_ticks(min(ends), max(ends), 6)

    def across(value: float) -> float:
        return 12 + (value - marks[0]) / (marks[-1] - marks[0]) * (FOREST_WIDTH - 24)

    placed = tuple(
        ForestRow(
            task=row.task,
            y=FOREST_ROW * (index + 0.5),
            low=across(row.difference.low),
            mid=across(row.difference.value),
            high=across(row.difference.high),
            verdict=row.difference.verdict,
        )
        for index, row in enumerate(rows)
    )
    ticks = tuple(Tick(across(mark), f"{mark:+g}".replace("-", MINUS) if mark else "0") for mark in marks)
    return Forest(placed, ticks, across(0.0), FOREST_ROW * len(rows))


def embed_picture(data: bytes, where: str, side: int) -> str:
    """Re-encode a picture as a data URI: small ones as palette PNG, larger ones as JPEG fitted into `side` pixels.

    Args:
        data: PNG or JPEG bytes.
        where: name for error messages.
        side: longest side kept, in pixels. The page draws smaller pictures larger, without smoothing.

    Raises:
        ReportError: when the bytes are not a picture.
    """
    try:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ReportError(
            f"{where}: not a readable PNG or JPEG ({len(data)} bytes): {error}. Make it again."
        ) from error
    small = max(picture.size) <= side and max(picture.size) <= 96
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    if small:
        picture.quantize(128, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    else:
        picture.save(out, "JPEG", quality=82, optimize=True)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
