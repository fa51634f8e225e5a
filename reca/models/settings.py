"""JSON files of settings beside a checkpoint: how every family reads, checks and writes them. Needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from reca.models.errors import CheckpointError

Kind = TypeVar("Kind")


def read_json(path: Path, mend: str = "copy it from where the checkpoint came from") -> dict[str, Any]:
    """Fields of a JSON object.

    Args:
        path: the file.
        mend: what to do when there is none, for the message.

    Raises:
        CheckpointError: naming the file, when it is missing or no JSON object.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: file is missing; {mend}") from error
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: no JSON object: {error}") from error


def write_json(values: Mapping[str, Any], path: Path, indent: int = 1) -> None:
    """Write fields as a JSON object, in their order; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(values), indent=indent) + b"\n")


def known_fields(values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Those of the values that are fields of the dataclass `kind`; published files name more than is needed here."""
    known: Mapping[str, Any] = getattr(kind, "__dataclass_fields__")  # noqa: B009 - not declared for a plain type
    return {name: values[name] for name in known if name in values}


def converted(values: Mapping[str, Any], kind: type[Kind], source: Path | str) -> Kind:
    """The dataclass `kind` with these values.

    Args:
        values: by field; those left out have the field's default.
        kind: a dataclass.
        source: what the values are from, for the message.

    Raises:
        CheckpointError: naming `source`, when a value has the wrong type, or the class refuses the values.
    """
    try:
        return msgspec.convert(values, kind)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error


def with_rope_theta(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Settings of a language model with `rope_theta` where they have it: by itself, or, as transformers 5 writes it, in
    `rope_parameters`.

    Args:
        values: settings.
        path: the file, for the message.

    Raises:
        CheckpointError: naming file and setting, when `rope_parameters` has no base.
    """
    rope = values.get("rope_parameters")
    if not rope:
        return dict(values)
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        raise CheckpointError(
            f"{path}: rope_parameters is {rope!r} without rope_theta; give the base of the rotary embedding there"
        )
    return {**values, "rope_theta": rope["rope_theta"]}


def check_fixed(values: Mapping[str, Any], fixed: Mapping[str, Any], path: Path, section: str = "") -> None:
    """Make sure that settings which are not offered here have the values that are built here, where they are given.

    Args:
        values: settings of a file, or of a section of it.
        fixed: the value of each setting that must have one.
        path: the file, for the message.
        section: name of the section, for the message.

    Raises:
        CheckpointError: naming file, setting, what was found and what is needed.
    """
    for name, value in fixed.items():
        if values.get(name, value) != value:
            where = f"{section}.{name}" if section else name
            raise CheckpointError(f"{path}: {where} is {values[name]!r}, but only {value!r} is built here")
