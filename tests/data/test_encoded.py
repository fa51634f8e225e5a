from pathlib import Path

import numpy as np
import pytest

from reca.data.encoded import EncodedDataset, EncodedWriter, compact, open_encoded
from reca.data.files import DatasetError


def write(folder: Path, pieces: list[int], width: int = 8) -> dict[str, np.ndarray]:
    folder.mkdir()
    n = sum(pieces)
    rng = np.random.default_rng(0)
    tensors = {
        "codes": rng.integers(0, 1024, (n, 16), dtype=np.int32),
        "features": rng.normal(size=(n, 4, width)).astype(np.float16),
    }
    with EncodedWriter(folder) as writer:
        at = 0
        for piece in pieces:
            span = slice(at, at + piece)
            keys = [f"{i:05d}" for i in range(at, at + piece)]
            captions = [None if i % 2 else f"c{i}" for i in range(at, at + piece)]
            writer.add(keys, captions, {name: values[span] for name, values in tensors.items()})
            at += piece
        writer.close({"images": "x"})
    return tensors


def test_random_access(tmp_path: Path) -> None:
    tensors = write(tmp_path / "a", [1000, 1000, 301])
    dataset = EncodedDataset(str(tmp_path / "a"))
    assert len(dataset) == 2301
    assert [shard.rows for shard in dataset.manifest.shards] == [1024, 1024, 253]
    assert dataset.row_bytes == 16 * 4 + 4 * 8 * 2
    wanted = [2300, 0, 1023, 1024, 7, 7]
    rows = dataset.take(wanted)
    assert [row.key for row in rows] == [f"{i:05d}" for i in wanted]
    assert [row.caption for row in rows] == ["c2300", "c0", None, "c1024", None, None]
    for i, row in zip(wanted, rows, strict=True):
        for name, values in tensors.items():
            assert row.tensors[name].dtype == values.dtype
            np.testing.assert_array_equal(row.tensors[name], values[i])
    assert not rows[0].tensors["codes"].flags.writeable
    with pytest.raises(IndexError, match=r"not inside 0\.\.2300"):
        dataset.take([2301])


def test_pieces_do_not_matter(tmp_path: Path) -> None:
    write(tmp_path / "a", [1500])
    write(tmp_path / "b", [1, 1023, 476])
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "ab")
    assert one == two


def test_a_shard_is_closed_by_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reca.data.encoded.MAX_SHARD_BYTES", 10 * (16 * 4 + 4 * 8 * 2))
    write(tmp_path / "a", [25])
    assert [shard.rows for shard in EncodedDataset(str(tmp_path / "a")).manifest.shards] == [10, 10, 5]


def test_remote_set_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setenv("RECA_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "a", [30])
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/a/", f"/{tmp_path.name}/", recursive=True)
    uri = f"memory://{tmp_path.name}"
    assert EncodedDataset(uri).take([29])[0].key == "00029"
    memory.rm(f"/{tmp_path.name}/part-00000.arrow")
    assert EncodedDataset(uri).take([3])[0].key == "00003"


def test_altered_remote_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setenv("RECA_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "a", [30])
    part = tmp_path / "a" / "part-00000.arrow"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    fsspec.filesystem("memory").put(f"{tmp_path}/a/", f"/{tmp_path.name}/", recursive=True)
    with pytest.raises(DatasetError, match="content is not what the manifest says"):
        EncodedDataset(f"memory://{tmp_path.name}")


def test_a_rewritten_set_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "a", [3])
    with pytest.raises(DatasetError, match="changed while it was in use"):
        open_encoded(str(tmp_path / "a"), "another digest")


def test_shapes_must_stay(tmp_path: Path) -> None:
    with EncodedWriter(tmp_path) as writer:
        writer.add(["a"], [None], {"x": np.zeros((1, 3), np.float16)})
        with pytest.raises(DatasetError, match="batch at key 'b'"):
            writer.add(["b"], [None], {"x": np.zeros((1, 4), np.float16)})


def test_compact_forms() -> None:
    assert compact("k", "x", np.ones((2, 3), np.float32)).dtype == np.float16
    assert compact("k", "x", np.array([[70000]], np.int64)).dtype == np.int32
    assert compact("k", "x", np.array([[3]], np.int16)).dtype == np.int16
    for bad in (np.array([np.nan], np.float32), np.array([1e6], np.float32), np.array([2**40], np.int64)):
        with pytest.raises(DatasetError, match=r"tensor 'x' .* key 'k'"):
            compact("k", "x", bad)
