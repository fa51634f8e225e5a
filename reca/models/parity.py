"""Check a model against tensors recorded from the authors' code: `python -m reca.models.parity DIR...`.

A folder holds `config.json`, `inputs.safetensors`, weights, and `outputs.safetensors`. A family's room may have a
`parity` module that says which folders are its own and compares them; every tensor of `outputs.safetensors` must be
compared, else it is reported as unchecked and the run fails.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from reca.models import FAMILIES
from reca.models.checkpoint import read_tensors, stored_names
from reca.models.errors import CheckpointError
from reca.models.settings import read_json


@dataclass(frozen=True)
class Check:
    """One compared quantity.

    Attributes:
        quantity: its name, the tensor's name in `outputs.safetensors` where it has one.
        error: largest error found; infinite for a wrong shape.
        limit: largest error allowed.
        note: what the error means, or what is wrong.
    """

    quantity: str
    error: float
    limit: float
    note: str = "absolute"

    @property
    def ok(self) -> bool:
        """Whether the error is within its limit (never for NaN)."""
        return self.error <= self.limit


class FamilyParity(Protocol):
    """What a family's `parity` module offers."""

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Whether a folder with this `config.json` is of the family."""
        ...

    def check(self, folder: Path) -> Iterator[Check]:
        """Compare everything in a folder."""
        ...


class Recording:
    """A folder of reference tensors.

    Attributes:
        folder: the folder.
        settings: its `config.json`.
        inputs: tensors of `inputs.safetensors` by name.
        outputs: tensors of `outputs.safetensors` by name; each has to be compared.

    Raises:
        CheckpointError: naming a file that is missing or broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = read_json(folder / "config.json")
        self.inputs = dict(read_tensors(folder / "inputs.safetensors"))
        self.outputs = dict(read_tensors(folder / "outputs.safetensors"))

    def recorded(self, *starts: str) -> bool:
        """Whether the name of any output starts with one of these."""
        return any(name.startswith(starts) for name in self.outputs)

    def same(self, name: str, found: Tensor, limit: float = 0.0) -> Iterator[Check]:
        """A check of what was found (shape and dtype of the output `name`), if there is such an output."""
        if name in self.outputs:
            yield compare(name, found, self.outputs[name], limit)


def compare(quantity: str, found: Tensor, expected: Tensor, limit: float) -> Check:
    """Largest absolute difference of two tensors of one shape, any shape; another shape is an infinite error.

    Args:
        quantity: name of the check.
        found: what is computed here.
        expected: what was recorded. Integers and booleans must be equal whatever `limit` is.
        limit: largest difference allowed.
    """
    if found.shape != expected.shape:
        return Check(quantity, float("inf"), limit, f"shape {list(found.shape)}, expected {list(expected.shape)}")
    if not expected.is_floating_point():
        return Check(quantity, float((found != expected).sum()), 0.0, "entries that differ")
    difference = (found.detach().double() - expected.detach().double()).abs()
    return Check(quantity, float(difference.max()) if difference.numel() else 0.0, limit)


def compare_norm(quantity: str, found: float, expected: float, limit: float) -> Check:
    """Error of a norm relative to the recorded one; a recorded norm of 0 counts as 1e-12."""
    return Check(quantity, abs(found - expected) / max(abs(expected), 1e-12), limit, "relative")


def compare_gradient(quantity: str, found: Tensor | None, expected: Tensor, limit: float) -> Check:
    """Norm of a gradient's difference from the recorded one, any shape, relative to the norm of that; infinite where
    there is no gradient of its shape.
    """
    if found is None or found.shape != expected.shape:
        return Check(quantity, float("inf"), limit, "no gradient of this shape")
    return Check(quantity, float((found - expected).norm() / expected.norm().clamp(min=1e-12)), limit, "relative norm")


def check_folder(folder: Path) -> list[Check]:
    """All checks of one folder, and one failed check for every recorded tensor that none of them covered.

    Raises:
        CheckpointError: no family recognises the folder, a file of it cannot be read, or it asks for something that is
            not built here.
    """
    path = folder / "outputs.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"{path}: file is missing; give a folder of reference tensors (a checkpoint is for "
            "`python -m reca.models.conformance`)"
        )
    try:
        checks = list(_family(folder).check(folder))
    except KeyError as error:
        raise CheckpointError(f"{folder}: config.json or a file of tensors has no {error}") from error
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    recorded = stored_names(path)
    unchecked = sorted(recorded - {check.quantity for check in checks})
    return checks + [Check(name, float("inf"), 0.0, "unchecked") for name in unchecked]


def table(title: str, checks: Sequence[Check]) -> Table:
    """One row per check, failed ones in red."""
    rows = Table(Column("quantity", overflow="fold"), "largest error", "limit", "meaning", "ok", title=title)
    for check in checks:
        style = "" if check.ok else "bold red"
        cells = (check.quantity, f"{check.error:.3g}", f"{check.limit:.3g}", check.note, "yes" if check.ok else "NO")
        rows.add_row(*cells, style=style)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one table per folder. Returns 0 when every check of every folder holds, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m reca.models.parity", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folder of reference tensors")
    console = Console()
    failed = 0
    for folder in parser.parse_args(arguments).folders:
        try:
            checks = check_folder(folder)
        except (CheckpointError, OSError) as error:
            console.print(f"[red]{folder}: {error}[/]", soft_wrap=True)
            failed += 1
            continue
        console.print(table(str(folder), checks))
        bad = sum(not check.ok for check in checks)
        console.print(
            f"{folder}: {len(checks) - bad} of {len(checks)} quantities hold" + (f", {bad} do not" if bad else "")
        )
        failed += bad
    return 1 if failed else 0


def _family(folder: Path) -> FamilyParity:
    path = folder / "config.json"
    config = read_json(path, "give a folder of reference tensors")
    # A family that transformers implements is compared with it in the tests, live, and has no reference folders.
    recorded = [family for family in FAMILIES if find_spec(f"reca.models.{family}.parity")]
    for family in recorded:
        room = cast("FamilyParity", importlib.import_module(f"reca.models.{family}.parity"))
        if room.recognises(config):
            return room
    raise CheckpointError(f"{path}: belongs to none of the families {', '.join(recorded)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
