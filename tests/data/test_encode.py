from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ray_instance import by_value, small_ray
from toy import BrokenEncoder, RefusingEncoder, ToyEncoder, expected

from reca.config import DataConfig, ExecutionConfig
from reca.data.encode import encode
from reca.data.encoded import EncodedDataset
from reca.data.files import DatasetError
from reca.data.prepare import prepare
from reca.models.base import Geometry

pytestmark = pytest.mark.ray
SQUARE = Geometry(64, "squash")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    by_value("toy")
    folder = tmp_path_factory.mktemp("images")
    with small_ray(cpus=3):
        prepare("twemoji", folder, DataConfig(images=200, instructions=200, rows_per_shard=70), "instructions")
        yield folder


def test_tasks_and_actors_do_not_change_a_byte(images: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    for share in (1, 2):
        execution = ExecutionConfig(workers=share, cpus_per_worker=0.5, data_tasks=share)
        report = encode(str(images), tmp_path / str(share), ToyEncoder, SQUARE, execution, lines.append, batch=48)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "12")
    assert one == two
    assert (report.rows, report.row_bytes) == (200, 16 * 4 + 16 * 3 * 2)
    assert lines[-1] == "200 of 200 images encoded"
    dataset = EncodedDataset(str(tmp_path / "1"))
    assert [row.key for row in dataset.take(range(200))] == [f"{i:09d}" for i in range(200)]
    for index in (0, 47, 48, 199):
        row, wanted = dataset.take([index])[0], expected(images, index)
        np.testing.assert_array_equal(row.tensors["codes"], wanted["codes"][0].numpy().astype(np.int32))
        np.testing.assert_array_equal(row.tensors["features"], wanted["features"][0].float().numpy().astype(np.float16))
        assert row.caption
        assert "\n" in row.caption


def test_values_that_are_not_finite_are_named(images: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"^tensor 'features' of the batch .* key '000000000' .*check the encoder's checkpoint$"
    ):
        encode(str(images), tmp_path / "out", BrokenEncoder, SQUARE, ExecutionConfig(workers=1), batch=200)


def test_pictures_that_the_encoder_refuses_are_named(images: Path, tmp_path: Path) -> None:
    message = (  # either batch may be the first to be encoded
        r"^image '000000[01]02': toy: NaN in the latents; so 2 of the 100 images of its batch; use float32 .*diverged$"
    )
    with pytest.raises(DatasetError, match=message):
        encode(str(images), tmp_path / "out", RefusingEncoder, SQUARE, ExecutionConfig(workers=1), batch=100)


def test_more_actors_than_the_cluster_holds_are_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"encoding needs 9 CPUs, the cluster has 3: it would wait forever"):
        encode(str(images), tmp_path / "out", ToyEncoder, SQUARE, ExecutionConfig(workers=16))
