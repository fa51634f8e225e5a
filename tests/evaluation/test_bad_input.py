"""Bad prompt files, pictures and folders, benchmark by benchmark: one line that says what, where and how to mend it."""

import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import SETS, png, rows, write, write_all

from reca.evaluation.picture_files import decoded, find_pictures, read_grid, read_picture
from reca.evaluation.records import BenchmarkError

TEXTS = [name for name in SETS if not SETS[name].file.endswith(".parquet")]
ROWS = [name for name in SETS if name != "mme"]


def refused(name: str, folder: Path) -> str:
    """What the reader says; a single line."""
    with pytest.raises(BenchmarkError) as error:
        SETS[name].read(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def broken(name: str, folder: Path, change: Callable[[bytes], bytes]) -> str:
    """What the reader says when the bytes of the set's file are changed."""
    path = write_all(folder) / SETS[name].file
    path.write_bytes(change(path.read_bytes()))
    return refused(name, folder)


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("inside", data)
    return buffer.getvalue()


@pytest.mark.parametrize("name", [name for name in SETS if name not in ("mme", "mmmu", "gedit parquet")])
def test_an_absent_file_is_named_with_where_to_get_it(name: str, tmp_path: Path) -> None:
    path = write_all(tmp_path) / SETS[name].file
    path.unlink()
    said = refused(name, tmp_path)
    assert said.startswith(f"{path}: no such file; get ")
    assert SETS[name].source in said
    path.mkdir()
    assert refused(name, tmp_path).startswith(f"{path}: is a folder; give the file: ")


@pytest.mark.parametrize("name", ["mme", "mmmu", "gedit parquet"])
def test_a_folder_without_files_is_named_with_where_to_get_them(name: str, tmp_path: Path) -> None:
    place = tmp_path / SETS[name].place
    said = refused(name, tmp_path)
    assert said.startswith(f"{place}: ")
    assert SETS[name].source in said


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: b"", ": is empty; get "),
        (lambda _: b" \r\n\n", ": is empty; get "),
        (gzip.compress, ": is packed by gzip; unpack it and give the file that was inside"),
        (zipped, ": is packed by zip; unpack it and give the file that was inside"),
        (lambda data: data[:3] + b"\xe9" + data[3:], ": byte 3 is no UTF-8; save it as UTF-8, or get "),
        (lambda data: data.decode().encode("utf-16"), ": byte 0 is no UTF-8; save it as UTF-8, or get "),
    ],
    ids=["empty", "blank", "gzip", "zip", "latin-1", "utf-16"],
)
def test_a_file_that_is_no_text_is_named(
    name: str, change: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    assert broken(name, tmp_path, change).startswith(f"{tmp_path / SETS[name].file}{message}")


@pytest.mark.parametrize("name", TEXTS)
def test_marks_and_line_ends_of_windows_change_nothing(name: str, tmp_path: Path) -> None:
    good = SETS[name].read(write_all(tmp_path))
    path = tmp_path / SETS[name].file
    data = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n") + b"\r\n")
    assert SETS[name].read(tmp_path) == good


@pytest.mark.parametrize("name", SETS)
def test_a_cut_file_is_named(name: str, tmp_path: Path) -> None:
    said = broken(name, tmp_path, lambda data: data[: len(data) * 3 // 5])
    assert said.startswith(str(tmp_path / SETS[name].file))
    assert SETS[name].source in said


@pytest.mark.parametrize("name", SETS)
def test_a_page_that_was_downloaded_instead_is_named(name: str, tmp_path: Path) -> None:
    said = broken(name, tmp_path, lambda _: b"<!DOCTYPE html>\n<html>404: Not Found</html>\n")
    assert said.startswith(str(tmp_path / SETS[name].file))
    assert SETS[name].source in said


PLACES = {
    "geneval": ": prompt line 2",
    "dpgbench": "",
    "wise": ", row 2",
    "wise verified": ", row 2",
    "imgedit": ", key '2'",
    "gedit": ", line 2",
    "pope": ", line 2",
    "gqa": ", key '2'",
}
"""Where the second entry of a file is said to stand."""


@pytest.mark.parametrize("name", PLACES)
def test_an_entry_without_a_field_is_named(name: str, tmp_path: Path) -> None:
    entries = rows(name)
    for entry in entries if name == "dpgbench" else entries[1:]:
        del entry[SETS[name].text]
    write(name, write_all(tmp_path), entries)
    said = refused(name, tmp_path)
    assert said.startswith(f"{tmp_path / SETS[name].file}{PLACES[name]}")
    assert re.search(rf"missing required field `{SETS[name].text}`|column {SETS[name].text} is missing", said)
    assert SETS[name].source in said


@pytest.mark.parametrize("name", ["dpgbench", "gedit parquet", "mmmu"])
def test_a_table_without_a_column_says_which_it_holds(name: str, tmp_path: Path) -> None:
    entries = [{"caption" if field == SETS[name].text else field: v for field, v in e.items()} for e in rows(name)]
    write(name, write_all(tmp_path), entries)
    said = refused(name, tmp_path)
    assert f"column {SETS[name].text} is missing; found " in said
    assert "caption" in said


@pytest.mark.parametrize("name", ROWS)
def test_a_value_of_another_kind_is_named(name: str, tmp_path: Path) -> None:
    entries = rows(name)
    entries[1][SETS[name].text] = None
    if name == "dpgbench":
        entries[0][SETS[name].text] = None  # the first row gives an item its text
    write(name, write_all(tmp_path), entries)
    said = refused(name, tmp_path)
    assert said.startswith(f"{tmp_path / SETS[name].file}{PLACES.get(name, ', row 2')}")
    assert "Expected `str`, got `null`" in said or "the text of item 'a' is empty" in said


@pytest.mark.parametrize("name", ROWS)
def test_an_entry_without_a_text_is_named(name: str, tmp_path: Path) -> None:
    entries = rows(name)
    for entry in entries:
        entry[SETS[name].text] = " "
    if name == "geneval":
        entries[1]["prompt"] = "two dogs"
    write(name, write_all(tmp_path), entries)
    if name == "mmmu":
        assert len(SETS[name].read(tmp_path).items) == 2  # the options and the request are its text
        return
    assert re.search(r": the text of item '.+' is empty; get ", refused(name, tmp_path))


@pytest.mark.parametrize("name", ROWS)
def test_an_entry_that_stands_twice_is_named_with_both_places(name: str, tmp_path: Path) -> None:
    write(name, write_all(tmp_path), rows(name, (1, 1)))
    if name in ("imgedit", "gqa"):
        path = tmp_path / SETS[name].file
        path.write_text(path.read_text().replace('"2": ', '"1": '))
    said = refused(name, tmp_path)
    assert said.endswith("; every one must stand once")
    both = [re.search(r"(line|row|key) '?(\d|k1)'?", part) for part in said.split(" repeats ")]
    places = [found[0] for found in both if found]
    assert len(places) == 2
    assert (places[0] == places[1]) == (name in ("imgedit", "gqa"))


def test_entries_are_unique_over_all_files_of_a_set(tmp_path: Path) -> None:
    from reca.evaluation.prompt_files import read_gedit, read_wise

    write_all(tmp_path)
    for name, read in (("wise", read_wise), ("gedit", lambda urls: read_gedit(urls, "en"))):
        first = tmp_path / SETS[name].file
        second = first.with_stem("other")
        second.write_bytes(first.read_bytes())
        with pytest.raises(BenchmarkError, match=rf"{second}, (row|line) 1 .* repeats {first}, (row|line) 1 "):
            read([str(first), str(second)])


def test_lines_are_counted_with_blank_ones(tmp_path: Path) -> None:
    said = broken("geneval", tmp_path, lambda data: data.replace(b"\n", b"\n\n") + data.splitlines()[0])
    assert "geneval.jsonl, line 5 repeats " in said
    assert "geneval.jsonl, line 1; " in said


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "unreadable picture: an empty file; make it again"),
        (b"not a picture", "unreadable picture: of no known format"),
        (png((64, 64))[:90], "unreadable picture: "),
        (png().replace(b"IDAT", b"\xba!B;"), "unreadable picture: "),
        (
            b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, *[0] * 6),
            "unreadable picture: 60000 x 60000 pixels, more than 64000000; make it again",
        ),
    ],
    ids=["empty", "text", "cut", "chunk", "bomb"],
)
def test_a_broken_picture_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(BenchmarkError, match=rf"a\.png: {message}"):
        read_picture(str(path))


def test_no_damage_of_a_picture_gets_out_as_anything_else() -> None:
    whole = {kind: io.BytesIO() for kind in ("PNG", "JPEG", "BMP")}
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    for kind, buffer in whole.items():
        noise.save(buffer, format=kind)
    rng = np.random.default_rng(1)
    for data in (buffer.getvalue() for buffer in whole.values()):
        for _ in range(300):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 4):
                damaged[place] = rng.integers(0, 256)
            try:
                decoded(bytes(damaged), "x")
            except BenchmarkError as error:
                assert "unreadable picture" in str(error)  # noqa: PT017 - most damages leave a picture


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_pictures_of_other_modes_are_read_as_they_look() -> None:
    def read(picture: Image.Image) -> tuple[int, ...]:
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        found = decoded(buffer.getvalue(), "x")
        assert found.mode == "RGB"
        pixel = found.getpixel((0, 0))
        assert isinstance(pixel, tuple)
        return pixel

    assert read(Image.fromarray(np.full((4, 4), 0x7FAB, np.uint16))) == (127, 127, 127)
    assert read(Image.new("RGBA", (4, 4), (10, 20, 30, 0))) == (10, 20, 30)
    assert read(Image.new("L", (4, 4), 9)) == (9, 9, 9)
    assert read(Image.new("P", (4, 4), 0)) == (0, 0, 0)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HHH", 0x7FAB, 0, 0xFFFF)))
    deep = b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")
    assert decoded(deep, "x").getpixel((0, 0)) == (127, 0, 255)


def test_a_folder_in_place_of_a_picture_is_a_missing_picture(tmp_path: Path) -> None:
    bench = SETS["wise"].read(write_all(tmp_path))
    (tmp_path / "made/1.png").mkdir(parents=True)
    (tmp_path / "made/2.png").write_bytes(png())
    (tmp_path / "made/1.png/inside.png").write_bytes(png())
    pictures = find_pictures(str(tmp_path / "made"), bench.items)
    assert (list(pictures.found), pictures.missing) == ([("2", 0)], ("1.png",))
    assert pictures.extra == ("1.png/inside.png",)
    with pytest.raises(BenchmarkError, match=r"1\.png: unreadable picture: .*Is a directory"):
        read_picture(str(tmp_path / "made/1.png"))


@pytest.mark.parametrize("size", [(33, 32), (31, 31), (16, 16), (64, 64)])
def test_a_grid_of_another_size_is_named(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(size))
    said = rf"a\.png: is {size[0]} x {size[1]} pixels, a grid of 2 x 2 samples of dpgbench\.cell=16 has 32 x 32; set"
    with pytest.raises(BenchmarkError, match=said):
        read_grid(str(tmp_path / "a.png"), 16)


def test_judge_prompts_of_another_kind_are_named_by_type(tmp_path: Path) -> None:
    (write_all(tmp_path) / "imgedit_prompts.json").write_text(json.dumps({"add": 5}))
    assert "imgedit_prompts.json, key 'add': Expected `str`, got `int`; get " in refused("imgedit", tmp_path)
