import json
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reca.data.files import DatasetError
from reca.data.shards import SCHEMA, ImageDataset, ShardWriter


def table(first: int, count: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed + first)
    rows = []
    for i in range(first, first + count):
        image = rng.bytes(int(rng.integers(1, 5000)))
        digest = blake2b(image, digest_size=16).hexdigest()
        caption = None if i % 3 else f"caption {i}"
        rows.append({"key": f"{i:06d}", "image": image, "width": i, "height": 2, "digest": digest})
        rows[-1] |= {"caption": caption, "source": "made"}
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write(folder: Path, pieces: list[int], rows_per_shard: int = 40) -> list[dict]:
    folder.mkdir()
    whole = table(0, sum(pieces))
    with ShardWriter(folder, rows_per_shard) as writer:
        at = 0
        for piece in pieces:
            writer.add(whole.slice(at, piece))
            at += piece
        writer.close([], {"kind": "test"})
    return whole.to_pylist()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_pieces_do_not_matter_and_shards_are_filled(tmp_path: Path) -> None:
    write(tmp_path / "a", [100])
    write(tmp_path / "b", [1, 39, 7, 53])
    assert content(tmp_path / "a") == content(tmp_path / "b")
    rows = [shard.rows for shard in ImageDataset(str(tmp_path / "a")).manifest.shards]
    assert rows == [40, 40, 20]


def test_it_is_ordinary_parquet(tmp_path: Path) -> None:
    rows = write(tmp_path / "a", [50])
    assert [
        row for path in sorted((tmp_path / "a").glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ] == rows
    assert pq.read_schema(tmp_path / "a" / "part-00000.parquet").names == SCHEMA.names


@pytest.mark.parametrize("remote", [False, True])
def test_random_access(tmp_path: Path, remote: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECA_CACHE", str(tmp_path / "cache"))
    rows = write(tmp_path / "a", [90])
    uri = str(tmp_path / "a")
    if remote:
        import fsspec

        fsspec.filesystem("memory").put(f"{uri}/", f"/{tmp_path.name}-{remote}/", recursive=True)
        uri = f"memory://{tmp_path.name}-{remote}"
    dataset = ImageDataset(uri)
    wanted = [89, 0, 41, 40, 39, 41]
    found = dataset.take(wanted)
    assert [row.key for row in found] == [rows[i]["key"] for i in wanted]
    assert [row.image for row in found] == [rows[i]["image"] for i in wanted]
    assert [row.caption for row in found] == [rows[i]["caption"] for i in wanted]
    with pytest.raises(IndexError, match=r"not inside 0\.\.89"):
        dataset.take([90])
    assert [row.key for row in dataset.take(range(90))] == [row["key"] for row in rows]


def test_a_shard_is_closed_by_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reca.data.shards.MAX_SHARD_BYTES", 20_000)
    write(tmp_path / "a", [60], rows_per_shard=1000)
    shards = ImageDataset(str(tmp_path / "a")).manifest.shards
    assert len(shards) > 3
    assert sum(shard.rows for shard in shards) == 60
    assert max(shard.bytes for shard in shards) < 35_000


@pytest.mark.parametrize(("second", "message"), [(4, "came twice"), (2, "came after")])
def test_keys_must_increase(tmp_path: Path, second: int, message: str) -> None:
    with ShardWriter(tmp_path, 10) as writer:
        writer.add(table(0, 5))
        with pytest.raises(DatasetError, match=message):
            writer.add(table(second, 1))


def test_unfinished_cut_and_altered_folders_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write(folder, [50])
    with pytest.raises(DatasetError, match=r"manifest\.json is missing; run the stage"):
        ImageDataset(str(tmp_path))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"rows": 49}))
    with pytest.raises(DatasetError, match="was altered"):
        ImageDataset(str(folder))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": "reca-encoded/1"}))
    with pytest.raises(DatasetError, match="wanted 'reca-images/1'"):
        ImageDataset(str(folder))
    (folder / "manifest.json").write_text(json.dumps(manifest)[:-40])
    with pytest.raises(DatasetError, match="altered or cut"):
        ImageDataset(str(folder))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shard = folder / "part-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"part-00001\.parquet has \d+ bytes"):
        ImageDataset(str(folder))
    shard.unlink()
    with pytest.raises(DatasetError, match="is missing though"):
        ImageDataset(str(folder))
