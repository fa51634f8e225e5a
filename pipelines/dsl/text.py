"""Lines that are printed about plans and runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.dsl.runview import NodeView

SCALARS = 6
"""Fields of an artifact shown in one line."""


def plan_lines(views: Sequence[NodeView]) -> list[str]:
    """Return one line for each stage: decision, name, reason."""
    width = max(len(node.name) for node in views)
    return [f"{node.decision:<5} {node.name:<{width}}  {node.reason}" for node in views]


def seconds(value: float) -> str:
    """Return a duration in words: `8.4 s`, `4 min 12 s`, `2 h 05 min`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def scalars(values: Mapping[str, Any]) -> str:
    """Return the numbers among an artifact's fields in one short line, or nothing."""
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    words = [f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in numbers.items()]
    return f"  {' '.join(words[:SCALARS])}" if words else ""
