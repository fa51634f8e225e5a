from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pictures import BAD, cmyk_jpeg, gradient, grey16_png, jpeg, png, turned_jpeg
from ray_instance import small_ray

from reca.config import DataConfig, ExecutionConfig
from reca.data.prepare import QuarantineError, prepare
from reca.data.sets import captioned_row, unlabeled_row
from reca.data.shards import SCHEMA, ImageDataset
from reca.data.sources import SourceError

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with small_ray(cpus=4):
        yield


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def mixed(folder: Path, good: int = 30) -> dict[str, str]:
    """Good pictures and every bad one in sub-folders; returns reason by key."""
    folder.mkdir()
    reasons = {}
    for i in range(good):
        (folder / f"good-{i:03d}.png").write_bytes(png(gradient(32 + i, 32)))
    (folder / "odd").mkdir()
    (folder / "odd" / "turned.jpg").write_bytes(turned_jpeg(6))
    (folder / "odd" / "cmyk.jpg").write_bytes(cmyk_jpeg())
    (folder / "odd" / "grey16.png").write_bytes(grey16_png())
    for name, (data, reason) in BAD.items():
        (folder / "odd" / f"{name}.jpg").write_bytes(data)
        reasons[f"odd/{name}.jpg"] = reason
    return reasons


def test_one_and_four_tasks_write_the_same_bytes(tmp_path: Path) -> None:
    data = DataConfig(images=600, rows_per_shard=250, seed=9)
    for tasks in (1, 4):
        report = prepare("twemoji", tmp_path / str(tasks), data, "images", ExecutionConfig(data_tasks=tasks))
    assert content(tmp_path / "1") == content(tmp_path / "4")
    assert (report.rows_in, report.rows, report.quarantined, report.shards) == (600, 600, 0, 3)
    dataset = ImageDataset(str(tmp_path / "1"))
    assert [row.image for row in dataset.take([0, 599])] == [unlabeled_row(0, 9).image, unlabeled_row(599, 9).image]


def test_every_row_is_kept_or_quarantined_with_its_reason(tmp_path: Path) -> None:
    reasons = mixed(tmp_path / "in")
    data = DataConfig(images=0, max_quarantined=0.5)
    lines: list[str] = []
    report = prepare(str(tmp_path / "in"), tmp_path / "out", data, "images", progress=lines.append)
    assert report.rows_in == report.rows + report.quarantined == 33 + len(BAD)
    assert report.reasons == Counter(reasons.values())
    quarantined = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert {row["key"]: row["reason"] for row in quarantined} == reasons
    assert all(row["source"] == str(tmp_path / "in") for row in quarantined)
    rows = pq.read_table(tmp_path / "out" / "part-00000.parquet", schema=SCHEMA).to_pylist()
    by_key = {row["key"]: row for row in rows}
    assert list(by_key) == sorted(by_key)
    assert (by_key["odd/turned.jpg"]["width"], by_key["odd/turned.jpg"]["height"]) == (48, 32)
    assert by_key["good-007.png"]["image"] == png(gradient(39, 32)), "bytes are stored as they came"
    assert all(row["digest"] == blake2b(row["image"], digest_size=16).hexdigest() for row in rows)
    assert lines[-1].endswith(f"33 kept, {len(BAD)} quarantined")


def test_a_passed_budget_stops_and_keeps_the_list(tmp_path: Path) -> None:
    reasons = mixed(tmp_path / "in", good=200)
    data = DataConfig(images=0, max_quarantined=0.05)
    with pytest.raises(QuarantineError) as caught:
        prepare(str(tmp_path / "in"), tmp_path / "out", data, "images", work_uri=str(tmp_path / "work"))
    message = str(caught.value)
    for part in (
        f"{len(BAD)} of {203 + len(BAD)}",
        "3 animated",
        "odd/bomb.jpg",
        "data.max_quarantined=0.05",
        "Mend or remove",
    ):
        assert part in message
    kept = pq.read_table(tmp_path / "work" / "quarantine.parquet")
    assert set(kept.column("key").to_pylist()) == set(reasons)
    assert not (tmp_path / "out" / "manifest.json").exists()
    prepare(str(tmp_path / "in"), tmp_path / "again", replace(data, max_quarantined=0.06), "images")


def test_all_bad_is_an_error_at_any_budget(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"no picture")
    with pytest.raises(QuarantineError, match=r"4 of 4 rows quarantined \(4 not an image\): all of them"):
        prepare(str(tmp_path), tmp_path / "out", DataConfig(images=0, max_quarantined=1.0), "images")


def test_duplicates_are_kept_under_their_own_keys(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg())
    report = prepare(str(tmp_path), tmp_path / "out", DataConfig(images=0), "images")
    assert report.rows == 2


def test_captions_of_the_same_pictures(tmp_path: Path) -> None:
    data = DataConfig(images=20, seed=3)
    prepare("twemoji", tmp_path / "out", data, "captions")
    (row,) = ImageDataset(str(tmp_path / "out")).take([17])
    assert row == captioned_row(17, 3)
    assert row.caption


def test_windows_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataConfig(images=500, rows_per_shard=300)
    prepare("twemoji", tmp_path / "one", data, "images")
    monkeypatch.setattr("reca.data.prepare.WINDOW_BLOCKS", 2)
    prepare("twemoji", tmp_path / "two", data, "images")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        prepare(str(tmp_path / "nowhere"), tmp_path / "out", DataConfig(), "images")
