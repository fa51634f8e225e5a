"""Reading and writing weights: one tensor at a time, checked by name, shape and value before they are used."""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from reca.models.errors import CheckpointError

STEMS = ("model", "pytorch_model", "diffusion_pytorch_model")
"""Names under which published checkpoints keep their weights, in the order they are looked for."""

SHOWN = 8
"""Problems spelled out in one error message."""

BLOCK = 2**16
"""Numbers that are checked and copied at once: 2 MB beside the file, whatever a tensor's size (2^20: 24 to 38 MB)."""

Types = Mapping[str, torch.dtype]

Target = Tensor | tuple[Tensor, ...]
"""Where one stored tensor goes: a tensor, or several that it holds one after another along its first axis."""

NO_TYPES: Types = MappingProxyType({})

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class _Index:
    """An index of shards, as far as it is needed: the file of each tensor."""

    weight_map: dict[str, str]


def built(
    build: Callable[[], Network],
    device: torch.device | str,
    dtype: torch.dtype,
    source: Path | str = "the checkpoint's configuration",
) -> Network:
    """Build a module to be filled by `load_strict`: on the device from the start, its initial values never computed.

    Args:
        build: makes the module.
        device: where its tensors lie.
        dtype: type of the floating-point parameters. Buffers (rotary frequencies, code tables) keep their own. A device
            holds the float32 module for a moment; a CPU does not, because no page of it is touched.
        source: what the sizes are from, for the message.

    Raises:
        CheckpointError: naming `source`, when the libraries inside refuse the sizes.
    """
    try:
        with torch.device(device), no_init_weights():
            network = build()
    except (CheckpointError, RuntimeError, MemoryError):  # memory that does not suffice is no fault of the sizes
        raise
    except Exception as error:  # transformers, diffusers and torch refuse sizes in ways that have no common class
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{source}: a model of these sizes cannot be built: {type(error).__name__}: {reason}; take the "
            "configuration files that belong to the weights"
        ) from error
    for parameter in network.parameters():
        if parameter.is_floating_point() and parameter.dtype != dtype:
            parameter.data = torch.empty_like(parameter, dtype=dtype)
    return network


def find_weights(folder: Path) -> Path:
    """The weight file, or index of a sharded one, of a checkpoint folder; safetensors before pickles.

    Raises:
        CheckpointError: when there is none.
    """
    names = [stem + suffix for suffix in (".safetensors", ".safetensors.index.json") for stem in STEMS]
    names += [stem + suffix for suffix in (".bin", ".bin.index.json", ".pth") for stem in STEMS]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder}: no weights found; looked for {', '.join(names)}")


def find_weights_or_pth(folder: Path) -> Path:
    """The same, or the only `.pth` file of the folder, whatever its name: Harmon and OpenUni were released so.

    Raises:
        CheckpointError: when there is none, or more than one `.pth`.
    """
    try:
        return find_weights(folder)
    except CheckpointError as error:
        others = sorted(folder.glob("*.pth"))
        if len(others) == 1:
            return others[0]
        found = f"; found {', '.join(path.name for path in others)}, keep one of them" if others else ""
        raise CheckpointError(f"{error}, or one .pth file{found}") from error


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors, of any shape and type, of a weight file (`.safetensors`, or a pickle of tensors only) or of
    the shards of an index.

    Tensors are views of the mapped file: copy them before the file changes, and hold few at a time.

    Raises:
        CheckpointError: naming the file, when it is missing or broken, or is a pickle that wants to run code.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: file is missing; copy it from where the checkpoint came from")
    if path.name.endswith(".index.json"):
        for shard in _shards(path):
            yield from read_tensors(path.parent / shard)
    elif path.suffix == ".safetensors":
        yield from _read_safetensors(path)
    else:
        yield from _read_pickle(path)


def stored_names(path: Path) -> frozenset[str]:
    """Names of the tensors of a weight file or of an index of shards; safetensors are not read for it.

    Raises:
        CheckpointError: as `read_tensors`.
    """
    if path.name.endswith(".index.json"):
        return frozenset().union(*(stored_names(path.parent / shard) for shard in _shards(path)))
    if path.suffix == ".safetensors" and path.is_file():
        try:
            with safe_open(path, framework="pt") as file:
                return frozenset(file.keys())
        except SafetensorError as error:
            raise CheckpointError(f"{path}: broken safetensors file ({error}); download or copy it again") from error
    return frozenset(name for name, _ in read_tensors(path))


def load_strict(
    wanted: Mapping[str, Target], path: Path, rename: Callable[[str], str | None] = lambda name: name
) -> dict[str, torch.dtype]:
    """Copy a weight file into existing tensors, in their own data types, one tensor at a time.

    Args:
        wanted: a module's state, of any shape and type; every entry must be in the file, in its shape.
        path: weight file or index.
        rename: name in `wanted` of a name in the file; None for a tensor that is not wanted.

    Returns:
        The type that each entry of `wanted` has in the file.

    Raises:
        CheckpointError: naming file and key, on missing, extra or misshaped keys, or values that are not finite. Some
            tensors are then filled already, so the module must not be used.
    """
    problems: list[str] = []
    seen: dict[str, torch.dtype] = {}
    damaged = 0
    for stored, tensor in read_tensors(path):
        name = rename(stored)
        if name is None:
            continue
        parts = _parts(wanted.get(name, ()))
        problem = _misfit(tensor, parts)
        if problem is None and (broken := _copy_parts(tensor, parts)):
            damaged += 1
            problem = f"{broken} values are NaN or infinite"
        if problem:
            problems.append(f"{stored}: {problem}")
        seen[name] = tensor.dtype
    problems += [f"{name}: missing" for name in wanted if name not in seen]
    if problems:
        shown = "; ".join(problems[:SHOWN]) + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")
        hint = "Check that weights and config.json belong together"
        if damaged == len(problems):
            hint = "The file is damaged, or the training behind it diverged: take another copy or an earlier checkpoint"
        raise CheckpointError(f"{path}: {shown}. {hint}")
    return seen


def storage_types(tensors: Mapping[str, Tensor], dtype: torch.dtype | None, stored: Types) -> dict[str, torch.dtype]:
    """Type in which each tensor is written.

    Args:
        tensors: what is written, of any shape and type.
        dtype: type of all floating-point tensors. None keeps what came in: each tensor has the type it had in the
            file, if that keeps its very value (always where nothing was trained), else its own.
        stored: types in the files that the tensors came from, as `load_strict` gave them.
    """
    if dtype is not None:
        return {name: dtype if value.is_floating_point() else value.dtype for name, value in tensors.items()}
    return {
        name: stored[name] if name in stored and _fits(value, stored[name]) else value.dtype
        for name, value in tensors.items()
    }


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype | None = None, stored: Types = NO_TYPES
) -> None:
    """Write one file of safetensors in the types that `storage_types` says.

    Args:
        tensors: what to write, of any shape and type, on any device.
        path: the file; folders on the way are made.
        dtype: see `storage_types`.
        stored: see `storage_types`.
    """
    _write(tensors, path, storage_types(tensors, dtype, stored))


def write_sharded(
    tensors: Mapping[str, Tensor],
    folder: Path,
    dtype: torch.dtype | None = None,
    shard_bytes: int = 5_000_000_000,
    stored: Types = NO_TYPES,
) -> None:
    """Write `model.safetensors`, or in the hub's way numbered shards and their index where that would be too large.

    Args:
        tensors: what to write, in this order, of any shape and type, on any device.
        folder: where.
        dtype: see `storage_types`.
        shard_bytes: a shard ends before it would exceed this (default of transformers: 5 GB).
        stored: see `storage_types`.
    """
    types = storage_types(tensors, dtype, stored)
    sizes = {name: tensor.numel() * types[name].itemsize for name, tensor in tensors.items()}
    shards: list[list[str]] = [[]]
    for name, size in sizes.items():
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + size > shard_bytes:
            shards.append([])
        shards[-1].append(name)
    if len(shards) == 1:
        _write(tensors, folder / "model.safetensors", types)
        return
    files = {f"model-{number:05}-of-{len(shards):05}.safetensors": names for number, names in enumerate(shards, 1)}
    for file, names in files.items():
        _write({name: tensors[name] for name in names}, folder / file, types)
    index = {
        "metadata": {"total_size": sum(sizes.values())},
        "weight_map": {name: file for file, names in files.items() for name in names},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _write(tensors: Mapping[str, Tensor], path: Path, types: Types) -> None:
    content = {name: value.detach().to("cpu", types[name]).contiguous() for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(content, path, metadata={"format": "pt"})


def _fits(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether the type holds the very value."""
    return value.dtype == dtype or all(
        torch.equal(block.to(dtype).to(block.dtype), block) for block in _blocks(value.detach())
    )


def _blocks(tensor: Tensor) -> tuple[Tensor, ...]:
    """Views of rows that hold about `BLOCK` numbers each."""
    if tensor.numel() <= BLOCK:
        return (tensor,)
    return tensor.split(max(1, BLOCK * len(tensor) // tensor.numel()))


def joined(target: Target) -> Tensor:
    """The tensor as it is stored: the target itself, of any shape and type, or a copy of its parts end to end along the
    first axis.
    """
    return target if isinstance(target, Tensor) else torch.cat(target)


def _parts(target: Target) -> tuple[Tensor, ...]:
    return (target,) if isinstance(target, Tensor) else target


def _copy_parts(found: Tensor, parts: tuple[Tensor, ...]) -> int:
    """Copy into parts. Returns how many values are not finite."""
    if len(parts) == 1:
        return _copy(found, parts[0])
    rows = found.split([len(part) for part in parts])
    return sum(_copy(source, part) for source, part in zip(rows, parts, strict=True))


def _copy(found: Tensor, into: Tensor) -> int:
    """Copy block by block. Returns how many values are not finite."""
    broken = 0
    for source, target in zip(_blocks(found), _blocks(into), strict=True):
        if source.is_floating_point():
            broken += int((~source.isfinite()).sum())
        target.copy_(source)
    return broken


def _misfit(found: Tensor, parts: tuple[Tensor, ...]) -> str | None:
    if not parts:
        return "not part of this model"
    first = parts[0]
    expected = list(first.shape)
    if len(parts) > 1:
        expected[0] = sum(len(part) for part in parts)
    if list(found.shape) != expected:
        return f"shape {list(found.shape)}, expected {expected}"
    numbers = found.is_floating_point() and found.dtype.itemsize > 1  # one byte: quantized, the scale is elsewhere
    if first.is_floating_point() != numbers:
        kind, needed = (str(tensor.dtype).removeprefix("torch.") for tensor in (found, first))
        return f"type {kind}, expected {needed} or one like it (quantized weights are not read)"
    return None


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()))
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{index}: no index of shards (no usable weight_map): {error}") from error


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping, only looks like one
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: broken safetensors file ({error}); download or copy it again") from error


def _read_pickle(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        # Mapped, not read: the old format, which is no archive, cannot be.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # damaged bytes fail the unpickler in ways that have no common class
        raise CheckpointError(
            f"{path}: not a plain file of tensors: loading it would run code, or it is broken. "
            "Get the weights as safetensors from a source you trust"
        ) from error
    for wrapper in ("state_dict", "model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: holds no mapping of names to tensors")
    yield from content.items()
