"""Reading and writing weights: one tensor at a time, checked by name, shape and value before they are used."""

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reca.models.errors import CheckpointError

STEMS = ("model", "pytorch_model", "diffusion_pytorch_model")
"""Names under which published checkpoints keep their weights, in the order they are looked for."""

SHOWN = 8
"""Problems spelled out in one error message."""


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


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a weight file (`.safetensors`, or a pickle of tensors only) or of the shards of an index.

    Raises:
        CheckpointError: the file is missing or broken, or is a pickle that wants to run code.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: file is missing")
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
    wanted: Mapping[str, Tensor], path: Path, rename: Callable[[str], str | None] = lambda name: name
) -> None:
    """Copy a weight file into existing tensors, in their own data types, one tensor at a time.

    Args:
        wanted: a module's state; every entry must be in the file.
        path: weight file or index.
        rename: name in `wanted` of a name in the file; None for a tensor that is not wanted.

    Raises:
        CheckpointError: naming file and key, on missing, extra or misshaped keys, or values that are not finite. Some
            tensors are then filled already, so the module must not be used.
    """
    problems: list[str] = []
    seen: set[str] = set()
    for stored, tensor in read_tensors(path):
        name = rename(stored)
        if name is None:
            continue
        problem = _problem(tensor, wanted.get(name))
        if problem is None:
            wanted[name].copy_(tensor)
        else:
            problems.append(f"{stored}: {problem}")
        seen.add(name)
    problems += [f"{name}: missing" for name in wanted if name not in seen]
    if problems:
        shown = "; ".join(problems[:SHOWN]) + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")
        raise CheckpointError(f"{path}: {shown}. Check that weights and config.json belong together")


def write_tensors(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype | None = None) -> None:
    """Write safetensors; floating-point tensors are stored as `dtype` when one is given."""
    stored = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for name, tensor in tensors.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(stored, path, metadata={"format": "pt"})


def write_sharded(
    tensors: Mapping[str, Tensor], folder: Path, dtype: torch.dtype | None = None, shard_bytes: int = 5_000_000_000
) -> None:
    """Write `model.safetensors`, or in the hub's way numbered shards and their index where that would be too large.

    Args:
        tensors: what to write, in this order.
        folder: where.
        dtype: floating-point tensors are stored so, when given.
        shard_bytes: a shard ends before it would exceed this (default of transformers: 5 GB).
    """
    sizes = {
        name: tensor.numel() * (dtype if dtype and tensor.is_floating_point() else tensor.dtype).itemsize
        for name, tensor in tensors.items()
    }
    shards: list[list[str]] = [[]]
    for name, size in sizes.items():
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + size > shard_bytes:
            shards.append([])
        shards[-1].append(name)
    if len(shards) == 1:
        write_tensors(tensors, folder / "model.safetensors", dtype)
        return
    files = {f"model-{number:05}-of-{len(shards):05}.safetensors": names for number, names in enumerate(shards, 1)}
    for file, names in files.items():
        write_tensors({name: tensors[name] for name in names}, folder / file, dtype)
    index = {
        "metadata": {"total_size": sum(sizes.values())},
        "weight_map": {name: file for file, names in files.items() for name in names},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _problem(found: Tensor, expected: Tensor | None) -> str | None:
    if expected is None:
        return "not part of this model"
    if found.shape != expected.shape:
        return f"shape {list(found.shape)}, expected {list(expected.shape)}"
    if found.is_floating_point() and not found.isfinite().all():
        return f"{int((~found.isfinite()).sum())} values are NaN or infinite"
    return None


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (json.JSONDecodeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index}: no index of shards (no usable weight_map)") from error


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping, only looks like one
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: broken safetensors file ({error}); download or copy it again") from error


def _read_pickle(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
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
