"""What a model refuses because its numbers are not finite: counted with the reason, never scored, never in the way."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import msgspec
import torch
from torch import Tensor

from reca.evaluation.records import BenchmarkError, Record
from reca.models.finite import MEND, NonFiniteOutputError

UNSCORED = "the model's numbers were not finite"
"""`Record.unscored` of what was refused; the reason is in `why`."""

ENOUGH, BATCHES = 32, 4
"""Items, and batches that hold them, all of which are refused when a benchmark is ended early."""

T = TypeVar("T")
E = TypeVar("E")
R = TypeVar("R", bound=Record[Any, Any])


class AllRefusedError(BenchmarkError):
    """A model refused everything that was asked of it."""


@dataclass(frozen=True)
class Refusal:
    """Stands where a model refused an answer.

    Attributes:
        reason: what was not finite.
    """

    reason: str


def tried(call: Callable[[], T]) -> tuple[T, dict[int, str]]:
    """What a model's call gives, and by row why it means nothing there."""
    try:
        return call(), {}
    except NonFiniteOutputError as error:
        return error.result, dict(error.faults)


class Tally:
    """Counts what a model refuses while a benchmark is under way, and ends it when there will be nothing to score.

    It ends early when `ENOUGH` items in `BATCHES` batches have been asked for and every one was refused: with batches
    in the order of `spaced` they are from all over the set, so a model of which a tenth can be scored passes one of
    them with probability .97. Nothing is kept of what is refused, so a later run tries it again.

    Args:
        expected: how many pictures or answers there should be.
        what: they are.
        sound: how many there are already.
    """

    def __init__(self, expected: int, what: str, sound: int = 0) -> None:
        self.expected, self.what, self.sound = expected, what, sound
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
        found = ", ".join(
            reason if len(self.reasons) == 1 else f"{reason} ({count})" for reason, count in self.reasons.most_common()
        )
        if tried == self.expected:
            raise AllRefusedError(f"none of {tried:,} {self.what} can be scored: {found}; {MEND}")
        raise AllRefusedError(
            f"none of the first {tried:,} of {self.expected:,} {self.what} can be scored, so the rest was not tried: "
            f"{found}; {MEND}; then run the same command again"
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


def after_encoding(encode: Callable[[], E], use: Callable[[E], T]) -> T:
    """What a call makes of encoded pictures; refused by row are those of either.

    Args:
        encode: encodes pictures.
        use: draws or answers, a row for each.

    Raises:
        NonFiniteOutputError: with the call's result.
    """
    encoded, unread = tried(encode)
    result, refused = tried(lambda: use(encoded))
    if faults := refused | unread:
        raise NonFiniteOutputError(dict(sorted(faults.items())), len(cast("Sized", result)), result)
    return result


def drawn(call: Callable[[slice], Tensor], count: int, batch_size: int, what: str) -> tuple[Tensor, dict[int, str]]:
    """Pictures drawn batch by batch, without gradients.

    Args:
        call: draws those of a slice, uint8 [B, 3, S, S].
        count: N.
        batch_size: B at most.
        what: they are, for the message.

    Returns:
        uint8 [N, 3, S, S] on the CPU, black where refused, and the reasons by number.

    Raises:
        AllRefusedError: all were refused; see `Tally` for when this is said.
    """
    batches: dict[int, Tensor] = {}
    refused: dict[int, str] = {}
    tally = Tally(count, what)
    with torch.no_grad():
        for start in spaced(range(0, count, batch_size), batch_size):
            part = slice(start, start + batch_size)
            pictures, faults = tried(lambda part=part: call(part).cpu())
            tally.add(len(pictures), list(faults.values()))
            batches[start] = pictures.index_fill(0, torch.tensor(list(faults)), 0) if faults else pictures
            refused |= {start + row: fault for row, fault in faults.items()}
    tally.close()
    return torch.cat([batches[start] for start in sorted(batches)]), refused


def without(records: Sequence[R], refused: Mapping[int, str], blank: object) -> list[R]:
    """Records in which what was refused is unscored.

    Args:
        records: one for each picture or answer.
        refused: reasons by number.
        blank: what is seen in nothing.
    """
    return [
        msgspec.structs.replace(record, seen=blank, scores={}, why=(refused[number],), unscored=UNSCORED)
        if number in refused
        else record
        for number, record in enumerate(records)
    ]
