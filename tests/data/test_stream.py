import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg, png
from PIL import Image
from ray_instance import small_ray

from reca.config import DataConfig
from reca.data.encoded import EncodedWriter
from reca.data.files import DatasetError
from reca.data.prepare import prepare
from reca.data.stream import BatchPlan, stream_batches, stream_images

pytestmark = pytest.mark.ray
N = 50


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with small_ray():
        yield


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoded")
    codes = np.arange(N * 4, dtype=np.int32).reshape(N, 4)
    with EncodedWriter(folder) as writer:
        captions = [None if i % 2 else f"caption {i}" for i in range(N)]
        tensors = {"codes": codes, "features": codes.astype(np.float16)[:, :, None]}
        writer.add([f"{i:03d}" for i in range(N)], captions, tensors)
        writer.close({})
    return str(folder)


def test_ranks_share_each_global_batch_and_any_update_can_be_the_first(encoded: str) -> None:
    whole = list(stream_batches(encoded, BatchPlan(N, 8, 3, "a"), 0, 80))
    assert [batch.update for batch in whole] == list(range(80))
    keys = [[row.key for row in batch.rows] for batch in whole]
    halves = [list(stream_batches(encoded, BatchPlan(N, 8, 3, "a", rank, 2), 33, 80)) for rank in (0, 1)]
    for left, right in zip(*halves, strict=True):
        assert [row.key for row in (*left.rows, *right.rows)] == keys[left.update]
        assert [*left.positions, *right.positions] == list(range(left.update * 8, left.update * 8 + 8))
    flat = [key for batch in keys for key in batch]
    for epoch in range(len(flat) // N):
        assert sorted(flat[epoch * N : (epoch + 1) * N]) == [f"{i:03d}" for i in range(N)]


def test_rows_are_the_rows_of_the_plan(encoded: str) -> None:
    for batch in stream_batches(encoded, BatchPlan(N, 6, 1, "b"), 5, 9):
        for index, row in zip(batch.indices, batch.rows, strict=True):
            assert row.key == f"{index:03d}"
            assert row.caption == (None if index % 2 else f"caption {index}")
            assert row.tensors["codes"].tolist() == list(range(4 * index, 4 * index + 4))
            assert row.tensors["features"].shape == (4, 1)


def test_two_streams_of_one_seed_differ(encoded: str) -> None:
    a, b = (BatchPlan(N, 25, 3, name).indices(0).tolist() for name in ("a", "b"))
    assert a != b


def test_windows_do_not_show(encoded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = BatchPlan(N, 5, 0)
    whole = [batch.indices.tolist() for batch in stream_batches(encoded, plan, 2, 30)]
    monkeypatch.setattr("reca.data.stream.WINDOW_UPDATES", 10)
    monkeypatch.setattr("reca.data.stream.TASK_UPDATES", 3)
    assert [batch.indices.tolist() for batch in stream_batches(encoded, plan, 2, 30)] == whole


def test_waiting_is_counted_and_a_stream_may_be_left_early(encoded: str) -> None:
    stream = stream_batches(encoded, BatchPlan(N, 5, 0), 0, 10_000)
    next(stream)
    assert stream.waited_s >= stream.first_s > 0
    del stream


def test_pictures_arrive_decoded_and_fitted(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for i in range(20):
        flat = np.full((40, 60, 3), 10 * i, np.uint8)
        (source / f"{i:02d}.{'png' if i % 2 else 'jpg'}").write_bytes(png(flat) if i % 2 else jpeg(flat))
    prepare(str(source), tmp_path / "out", DataConfig(images=0, rows_per_shard=8), "images")
    stream = stream_images(str(tmp_path / "out"), BatchPlan(20, 10, 0), 0, 4, 32, "crop")
    seen = []
    for batch in stream:
        assert batch.pixels.shape == (10, 3, 32, 32)
        for key, index, pixels in zip(batch.keys, batch.indices, batch.pixels, strict=True):
            assert int(key[:2]) == index
            assert np.abs(pixels.astype(int) - 10 * index).max() <= 1
        seen += batch.keys
    assert sorted(seen[:20]) == sorted(seen[20:]) == sorted(path.name for path in source.iterdir())


def test_a_wrong_plan_is_refused(encoded: str) -> None:
    with pytest.raises(DatasetError, match="has 50 rows, the batch plan of stream 'x' was made for 49"):
        stream_batches(encoded, BatchPlan(49, 7, 0, "x"), 0, 1)
    with pytest.raises(ValueError, match="cannot be shared evenly by 2 workers"):
        BatchPlan(N, 7, 0, world=2)
    with pytest.raises(ValueError, match="rank 2 is not inside"):
        BatchPlan(N, 8, 0, rank=2, world=2)
    with pytest.raises(ValueError, match="has 0 samples"):
        BatchPlan(0, 8, 0)


def test_a_picture_spoilt_in_the_shard_is_named(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    (source / "noise.png").write_bytes(buffer.getvalue())
    prepare(str(source), tmp_path / "out", DataConfig(images=0), "images")
    shard = tmp_path / "out" / "part-00000.parquet"
    data = bytearray(shard.read_bytes())
    at = data.find(b"IDAT") + 200
    data[at : at + 50] = bytes(50)
    shard.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match=r"image 'noise\.png' was fine when the shards were made"):
        list(stream_images(str(tmp_path / "out"), BatchPlan(1, 1, 0), 0, 1, 32, "squash"))
