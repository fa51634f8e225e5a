"""Counting what cannot be scored while a benchmark is under way, and ending it when there will be nothing to score."""

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from reca.evaluation.records import BenchmarkError

ENOUGH, BATCHES = 32, 4
"""Items, and batches that hold them, all of which are refused when a benchmark is ended early."""

SHOWN = 3
"""Reasons that a message lists."""

T = TypeVar("T")


class AllRefusedError(BenchmarkError):
    """A model refused everything that was asked of it, or a judge judged nothing that it was shown."""


class Tally:
    """Counts what a model refuses, or a judge does not judge, and ends a benchmark of which nothing can be scored.

    It ends early when `ENOUGH` items in `BATCHES` batches have been asked for and every one was refused: with batches
    in the order of `spaced` they are from all over the set, so a model of which a tenth can be scored passes one of
    them with probability .97. Nothing is kept of what is refused, so a later run tries it again.

    Args:
        expected: how many pictures or answers there should be.
        what: they are.
        mend: what to do when all are refused, for the message.
        sound: how many there are already.
    """

    def __init__(self, expected: int, what: str, mend: str, sound: int = 0) -> None:
        self.expected, self.what, self.mend, self.sound = expected, what, mend, sound
        self.batches, self.reasons = 0, Counter[str]()

    def add(self, asked: int, refused: Sequence[str], unread: int = 0) -> None:
        """Count a batch.

        Args:
            asked: items that the model was asked for.
            refused: reason of each that it refused.
            unread: items that it could not be asked for.

        Raises:
            AllRefusedError: enough was asked for, and all of it was refused.
        """
        self.batches += 1
        self.sound += asked - len(refused)
        self.expected -= unread
        self.reasons.update(refused)
        if self.batches >= BATCHES and self.reasons.total() >= ENOUGH:
            self._require_some()

    def close(self) -> None:
        """End the count.

        Raises:
            AllRefusedError: all was refused.
        """
        self._require_some()

    def _require_some(self) -> None:
        tried = self.reasons.total()
        if self.sound or not tried:
            return
        listed = self.reasons.most_common(SHOWN)
        found = ", ".join(reason if len(self.reasons) == 1 else f"{reason} ({count})" for reason, count in listed)
        if others := tried - sum(count for _, count in listed):
            found += f", and {others} for other reasons"
        if tried == self.expected:
            raise AllRefusedError(f"none of {tried:,} {self.what} can be scored: {found}; {self.mend}")
        raise AllRefusedError(
            f"none of the first {tried:,} of {self.expected:,} {self.what} can be scored, so the rest was not tried: "
            f"{found}; {self.mend}; then run the same command again"
        )


def spaced(batches: Sequence[T], size: int) -> list[T]:
    """Batches in the order in which they are done: first enough for `Tally`, evenly spaced, then the others.

    Args:
        batches: of a whole benchmark.
        size: items of each, or less in the last of a kind.
    """
    count = min(len(batches), max(BATCHES, -(-ENOUGH // size)))
    first = [number * len(batches) // count for number in range(count)]
    rest = sorted(set(range(len(batches))) - set(first))
    return [batches[number] for number in (*first, *rest)]
