import re

import pytest

from pipelines.report_data import Difference, LossCurve, ReportError, ScoreRow
from pipelines.report_figures import (
    BOX_HEIGHT,
    FOREST_WIDTH,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    forest,
    layout_graph,
    loss_panel,
    nice_ticks,
)

DIAMOND = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ("d", "a"), "alone": ("d",)}


def numbers(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path)]


def widths(graph: dict[str, tuple[str, ...]]) -> dict[str, int]:
    return dict.fromkeys(graph, 12)


def test_every_stage_stands_right_of_its_inputs() -> None:
    layout = layout_graph(DIAMOND, widths(DIAMOND))
    boxes = {box.name: box for box in layout.boxes}
    assert set(boxes) == set(DIAMOND)
    for name, ups in DIAMOND.items():
        for up in ups:
            assert boxes[up].x + boxes[up].width < boxes[name].x
    assert len(layout.edges) == sum(map(len, DIAMOND.values()))


def test_boxes_do_not_overlap_and_lie_inside() -> None:
    layout = layout_graph(DIAMOND, widths(DIAMOND))
    for box in layout.boxes:
        assert 0 <= box.x <= box.x + box.width <= layout.width
        assert 0 <= box.y <= box.y + BOX_HEIGHT <= layout.height
        for other in layout.boxes:
            apart = other.x >= box.x + box.width or box.x >= other.x + other.width or abs(other.y - box.y) >= BOX_HEIGHT
            assert box is other or apart


def test_long_edge_passes_beside_the_boxes_between() -> None:
    chain = {"a": (), "b": ("a",), "c": ("b",), "d": ("c", "a")}
    layout = layout_graph(chain, widths(chain))
    long_edge = max(layout.edges, key=len)
    for box in layout.boxes[1:-1]:
        crossing = [y for x, y in numbers(long_edge) if box.x <= x <= box.x + box.width]
        assert crossing
        assert all(not box.y < y < box.y + BOX_HEIGHT for y in crossing)


def test_source_stands_next_to_its_consumer() -> None:
    graph = {"a": (), "b": ("a",), "late": (), "c": ("b", "late")}
    boxes = {box.name: box for box in layout_graph(graph, widths(graph)).boxes}
    assert boxes["late"].x == boxes["b"].x


def test_cycle_is_refused_and_empty_graph_is_drawn() -> None:
    with pytest.raises(ReportError, match="a, b"):
        layout_graph({"a": ("b",), "b": ("a",)}, {"a": 1, "b": 1})
    assert layout_graph({}, {}).boxes == ()


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1400, (0, 500, 1000, 1500)),
        (0.31, 0.52, (0.3, 0.4, 0.5, 0.6)),
        (-0.2, 0.3, (-0.2, 0, 0.2, 0.4)),
        (2, 2, (2, 2.5)),
    ],
)
def test_ticks_are_round_and_hold_the_range(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert nice_ticks(low, high, 4) == pytest.approx(ticks)


@pytest.mark.parametrize("count", [1, 2, 7, 1400, 50_000])
def test_loss_panel_stays_inside_and_short(count: int) -> None:
    values = tuple(4.0 / (1 + i / count) for i in range(count))
    panel = loss_panel(LossCurve("reconstruction", tuple(range(1, count + 1)), values))
    for path in (panel.raw, panel.smooth):
        points = numbers(path)
        assert 1 <= len(points) <= 400
        assert all(0 <= x <= PANEL_WIDTH and 0 <= y <= PANEL_HEIGHT for x, y in points)
    edge = max(1, count // 20)
    assert panel.first == pytest.approx(sum(values[:edge]) / edge)
    assert panel.last == pytest.approx(sum(values[-edge:]) / edge)


def test_smoothing_keeps_a_straight_line_and_flattens_noise() -> None:
    flat = loss_panel(LossCurve("a", tuple(range(1, 401)), tuple(2.0 + (i % 2) for i in range(400))))
    heights = [y for _, y in numbers(flat.smooth)]
    raw = [y for _, y in numbers(flat.raw)]
    assert max(heights) - min(heights) < 0.1 * (max(raw) - min(raw))


def test_empty_curve_is_refused() -> None:
    with pytest.raises(ReportError, match="image to text has no points"):
        loss_panel(LossCurve("image to text", (), ()))


def test_forest_keeps_order_and_zero() -> None:
    rows = [
        ScoreRow("up", 10, 0.1, 0.4, Difference(0.3, 0.2, 0.4)),
        ScoreRow("down", 10, 0.4, 0.3, Difference(-0.1, -0.2, -0.05)),
        ScoreRow("same", 10, 0.4, 0.41, Difference(0.01, -0.05, 0.07)),
    ]
    drawn = forest(rows)
    assert [row.verdict for row in drawn.rows] == ["gain", "loss", "none"]
    for row in drawn.rows:
        assert 0 <= row.low <= row.mid <= row.high <= FOREST_WIDTH
    assert drawn.rows[0].low > drawn.zero > drawn.rows[1].high
    assert drawn.rows[2].low < drawn.zero < drawn.rows[2].high
    assert "0" in [tick.text for tick in drawn.ticks]


def test_forest_of_no_change_at_all_is_drawn() -> None:
    drawn = forest([ScoreRow("same", 5, 0.5, 0.5, Difference(0.0, 0.0, 0.0))])
    assert drawn.rows[0].mid == drawn.zero
