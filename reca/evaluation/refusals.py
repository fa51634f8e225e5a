"""What a model refuses because its numbers are not finite: counted with the reason, never scored, never in the way."""

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import msgspec
import torch
from torch import Tensor

from reca.evaluation.records import Record
from reca.evaluation.tally import Tally, spaced
from reca.models.finite import MEND, NonFiniteOutputError

UNSCORED = "the model's numbers were not finite"
"""`Record.unscored` of what was refused; the reason is in `why`."""

T = TypeVar("T")
E = TypeVar("E")
R = TypeVar("R", bound=Record[Any, Any])


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
    tally = Tally(count, what, MEND)
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
