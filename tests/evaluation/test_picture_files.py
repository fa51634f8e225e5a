from pathlib import Path

import pytest
from PIL import Image

from reca.evaluation.picture_files import find_pictures, read_picture
from reca.evaluation.records import BenchmarkError, Item

ITEMS = [Item(key, "", "", None, tuple(f"{key}/samples/{n:04d}.png" for n in range(2))) for key in ("00000", "00001")]


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)


def test_a_complete_folder(tmp_path: Path) -> None:
    for item in ITEMS:
        for path in item.pictures:
            draw(tmp_path / path)
    (tmp_path / "00000/metadata.jsonl").write_text("{}")
    draw(tmp_path / "fullset/k1_SRCIMG.png")
    pictures = find_pictures(str(tmp_path), ITEMS)
    assert (len(pictures.found), pictures.missing, pictures.extra) == (4, (), ())
    assert pictures.found["00001", 1] == f"{tmp_path}/00001/samples/0001.png"
    assert read_picture(pictures.found["00001", 1]).size == (8, 8)


def test_missing_and_extra_pictures_are_counted(tmp_path: Path) -> None:
    draw(tmp_path / ITEMS[0].pictures[0])
    draw(tmp_path / "00000/samples/0002.png")
    pictures = find_pictures(f"file://{tmp_path}", ITEMS)
    assert list(pictures.found) == [("00000", 0)]
    assert pictures.missing == (ITEMS[0].pictures[1], *ITEMS[1].pictures)
    assert pictures.extra == ("00000/samples/0002.png",)
    with pytest.raises(BenchmarkError, match="no such folder"):
        find_pictures(str(tmp_path / "nowhere"), ITEMS)


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    for name in ("cut", "text", "nowhere"):
        with pytest.raises(BenchmarkError, match=f"{name}.png: unreadable picture"):
            read_picture(str(tmp_path / f"{name}.png"))
