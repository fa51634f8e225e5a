"""What a model refuses because its numbers are not finite: counted with the reason, never scored, never in the way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import torch
from torch import Tensor

from reca.evaluation.records import BenchmarkError, Record
from reca.models.finite import MEND, NonFiniteOutputError

UNSCORED = "the model's numbers were not finite"
"""`Record.unscored` of what was refused; the reason is in `why`."""

T = TypeVar("T")
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


def require_some(refused: Sequence[str], expected: int, what: str) -> None:
    """Stop where there is nothing to score.

    Args:
        refused: reasons, one for each refusal.
        expected: how many pictures or answers there should be.
        what: they are.

    Raises:
        AllRefusedError: all were refused.
    """
    if refused and len(refused) == expected:
        raise AllRefusedError(f"none of {expected} {what} can be scored: {refused[0]}; {MEND}")


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
        AllRefusedError: all were refused.
    """
    batches: list[Tensor] = []
    refused: dict[int, str] = {}
    with torch.no_grad():
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            pictures, faults = tried(lambda part=part: call(part).cpu())
            batches.append(pictures.index_fill(0, torch.tensor(list(faults)), 0) if faults else pictures)
            refused |= {start + row: fault for row, fault in faults.items()}
    require_some(list(refused.values()), count, what)
    return torch.cat(batches), refused


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
