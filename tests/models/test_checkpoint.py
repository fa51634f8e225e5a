import json
import os
import pickle
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from reca.models.checkpoint import (
    find_weights,
    load_strict,
    read_tensors,
    stored_names,
    write_sharded,
    write_tensors,
)
from reca.models.errors import CheckpointError


def tensors() -> dict[str, Tensor]:
    return {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2])}


def empty() -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in tensors().items()}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin", "model.pth"])
def test_every_published_file_name_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(tensors(), path)
    else:
        torch.save({"state_dict": tensors()}, path)
    wanted = empty()
    load_strict(wanted, find_weights(tmp_path))
    assert all(torch.equal(wanted[key], value) for key, value in tensors().items())


def test_shards_are_followed(tmp_path: Path) -> None:
    shards = {"a.weight": "one.safetensors", "b": "two.safetensors"}
    for key, shard in shards.items():
        save_file({key: tensors()[key]}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    wanted = empty()
    load_strict(wanted, find_weights(tmp_path))
    assert torch.equal(wanted["b"], tensors()["b"])
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"two\.safetensors.*missing"):
        load_strict(empty(), find_weights(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": None}, "b: missing"),
        ({"c": torch.zeros(1)}, "c: not part of this model"),
        ({"a.weight": torch.zeros(3, 2)}, r"a.weight: shape \[3, 2\], expected \[2, 3\]"),
        ({"a.weight": torch.zeros(2, 3, dtype=torch.int8)}, "a.weight: type int8, expected float32"),
        ({"a.weight": torch.zeros(2, 3, dtype=torch.float8_e4m3fn)}, "a.weight: type float8_e4m3fn, expected float32"),
        ({"b": torch.zeros(2)}, "b: type float32, expected int64"),
        ({"a.weight": torch.full((2, 3), float("nan"))}, "a.weight: 6 values are NaN or infinite"),
        ({"a.weight": torch.tensor([[float("inf"), 0, 0], [0, 0, 0]])}, "a.weight: 1 values"),
    ],
)
def test_bad_weights_are_named(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    changed = {name: value for name, value in {**tensors(), **change}.items() if value is not None}
    save_file(changed, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{message}"):
        load_strict(empty(), tmp_path / "model.safetensors")


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, writer: str) -> None:
    path, marker = tmp_path / "pytorch_model.bin", tmp_path / "ran"
    if writer == "torch":
        torch.save({"a": Attack(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Attack(marker)}))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: .*run code.*safetensors"):
        list(read_tensors(path))
    assert not marker.exists()


def test_broken_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights found"):
        find_weights(tmp_path)
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors: file is missing"):
        list(read_tensors(tmp_path / "nothing.safetensors"))
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: broken"):
        list(read_tensors(tmp_path / "model.safetensors"))
    for content in (b"{}", b"[]", b'{"weight_map": {"a": 1}}', b'{"weight_map": ["a"]}', b"\xff", b""):
        (tmp_path / "model.safetensors.index.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"index\.json: .*weight_map"):
            list(read_tensors(tmp_path / "model.safetensors.index.json"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"list\.pth: holds no mapping"):
        list(read_tensors(tmp_path / "list.pth"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_with_damaged_bytes_is_named_whatever_the_unpickler_says(tmp_path: Path, archive: bool) -> None:
    whole, path = tmp_path / "whole.bin", tmp_path / "pytorch_model.bin"
    torch.save(tensors(), whole, _use_new_zipfile_serialization=archive)
    random, content = Random(0), whole.read_bytes()
    refused: list[str] = []
    for _ in range(100):
        damaged = bytearray(content)
        damaged[random.randrange(min(len(content), 600))] = random.randrange(256)
        path.write_bytes(damaged)
        try:
            list(read_tensors(path))
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(message.startswith(f"{path}: ") for message in refused)


def test_bfloat16_storage_keeps_integers_and_halves_floats(tmp_path: Path) -> None:
    write_tensors(tensors(), tmp_path / "part" / "model.safetensors", torch.bfloat16)
    stored = dict(read_tensors(tmp_path / "part" / "model.safetensors"))
    assert stored["a.weight"].dtype == torch.bfloat16
    assert stored["b"].dtype == torch.int64
    wanted = empty()
    load_strict(wanted, tmp_path / "part" / "model.safetensors")
    assert wanted["a.weight"].dtype == torch.float32


def test_shards_are_numbered_indexed_and_named_without_reading(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 2), "c": torch.zeros(7, dtype=torch.long)}
    write_sharded(tensors, tmp_path, dtype=torch.bfloat16, shard_bytes=20)
    index = tmp_path / "model.safetensors.index.json"
    assert find_weights(tmp_path) == index
    assert json.loads(index.read_text()) == {
        "metadata": {"total_size": 6 * 2 + 4 * 2 + 7 * 8},
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00001-of-00002.safetensors",
            "c": "model-00002-of-00002.safetensors",
        },
    }
    assert stored_names(index) == set(tensors)
    found = dict(read_tensors(index))
    assert all(torch.equal(found[name], value.to(found[name].dtype)) for name, value in tensors.items())
    assert {name: value.dtype for name, value in found.items()} == {
        "a": torch.bfloat16,
        "b": torch.bfloat16,
        "c": torch.long,
    }


def test_small_checkpoints_are_one_file_and_pickles_are_named_too(tmp_path: Path) -> None:
    write_sharded({"a": torch.ones(3)}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert stored_names(tmp_path / "model.safetensors") == {"a"}
    torch.save({"b": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert stored_names(tmp_path / "pytorch_model.bin") == {"b"}
    (tmp_path / "model.safetensors").write_bytes(b"no")
    for name in ("model.safetensors", "gone.safetensors"):
        with pytest.raises(CheckpointError, match=name):
            stored_names(tmp_path / name)
