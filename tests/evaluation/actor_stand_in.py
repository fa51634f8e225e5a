"""Batches done in the test's own process, in the place of Ray actors."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any


def spread(batches: Sequence[Any], make: Callable[[str], Callable[[Any], Any]], _: object) -> Iterator[Any]:
    """As `reca.evaluation.actors.spread`, one batch after another on the CPU."""
    yield from map(make("cpu"), batches)
