from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from object_store import s3_bucket
from pictures import jpeg, png

from reca.config import DataConfig
from reca.data.sets import Row, instruction_row
from reca.data.sources import BLOCK_ROWS, Fault, FolderSource, Kind, SourceError, TwemojiSource, open_source


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_bucket() as uri:
        yield uri


def rows(source: FolderSource | TwemojiSource) -> list[Row | Fault]:
    return [row for block in source.blocks() for row in source.load(block)]


def fill(uri: str) -> None:
    files = {
        "a/z.JPG": jpeg(),
        "a.jpg": jpeg(),
        "a-b.png": png(),
        "a/deep/er/x.webp": b"anything",
        "a.txt": b"What is it?\na gradient\n",
        "a-b.txt": b"only one line",
        ".hidden/x.jpg": jpeg(),
        ".x.png": png(),
        "README.md": b"words",
    }
    fs, root = fsspec.url_to_fs(uri)
    for name, data in files.items():
        fs.makedirs(f"{root}/{name}".rsplit("/", 1)[0], exist_ok=True)
        fs.pipe_file(f"{root}/{name}", data)


@pytest.mark.parametrize("remote", [False, True])
def test_folder_is_walked_in_key_order(tmp_path: Path, bucket: str, remote: bool) -> None:
    uri = f"{bucket}/walk" if remote else str(tmp_path)
    fill(uri)
    found = rows(FolderSource(uri, 0, "images"))
    keys = [row.key for row in found]
    assert keys == ["a-b.png", "a.jpg", "a/deep/er/x.webp", "a/z.JPG"] == sorted(keys)
    assert all(isinstance(row, Row) and row.caption is None and row.source == uri for row in found)
    assert [row.image for row in found if isinstance(row, Row)] == [png(), jpeg(), b"anything", jpeg()]
    assert [row.key for row in rows(FolderSource(uri, 2, "images"))] == keys[:2]


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(("kind", "first"), [("captions", None), ("instructions", "bad caption")])
def test_captions_lie_beside(tmp_path: Path, bucket: str, kind: Kind, first: str | None, remote: bool) -> None:
    uri = f"{bucket}/captions-{kind}" if remote else str(tmp_path)
    fill(uri)
    found = rows(FolderSource(uri, 0, kind))
    if first is None:
        assert isinstance(found[0], Row)
        assert found[0].caption == "only one line"
    else:
        assert isinstance(found[0], Fault)
        assert found[0].reason == first
    assert isinstance(found[1], Row)
    assert found[1].caption == "What is it?\na gradient"
    assert all(isinstance(row, Fault) and row.reason == "no caption" for row in found[2:])


def test_a_file_that_vanished_is_a_fault(tmp_path: Path) -> None:
    fill(str(tmp_path))
    source = FolderSource(str(tmp_path), 0, "images")
    blocks = list(source.blocks())
    (tmp_path / "a.jpg").unlink()
    (fault,) = [row for row in source.load(blocks[0]) if isinstance(row, Fault)]
    assert (fault.key, fault.reason) == ("a.jpg", "unreadable")


def test_missing_and_empty_sources_are_named(tmp_path: Path, bucket: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "notes.doc").write_text("x")
    (tmp_path / "file.jpg").write_bytes(jpeg())
    expectations = {
        str(tmp_path / "nowhere"): "nowhere does not exist; give an existing folder",
        str(tmp_path / "empty"): "has no image: it is empty; add files that end in",
        str(tmp_path / "words"): r"only other files, such as .*notes\.doc",
        str(tmp_path / "file.jpg"): "is a file; give the folder",
        f"{bucket}/nothing-here": "does not exist",
    }
    for uri, message in expectations.items():
        with pytest.raises(SourceError, match=message):
            list(FolderSource(uri, 0, "images").blocks())
    with pytest.raises(SourceError, match="asked for 0 rows"):
        list(TwemojiSource(0, 0, "images").blocks())


def test_listing_is_lazy(tmp_path: Path) -> None:
    for name in range(BLOCK_ROWS + 10):
        (tmp_path / f"{name:04d}").mkdir()
        (tmp_path / f"{name:04d}" / "x.png").write_bytes(b"")
    blocks = FolderSource(str(tmp_path), 0, "images").blocks()
    assert next(blocks).num_rows == BLOCK_ROWS
    (tmp_path / f"{BLOCK_ROWS + 5:04d}" / "x.png").unlink()
    assert next(blocks).num_rows == 9, "the second block must be listed only when asked for"


def test_twemoji_rows_are_a_function_of_index(tmp_path: Path) -> None:
    data = DataConfig(images=300, instructions=200, seed=4)
    source = open_source("twemoji", data, "instructions")
    blocks = list(source.blocks())
    assert [block.num_rows for block in blocks] == [128, 72]
    last = list(source.load(blocks[1]))
    assert last[-1] == instruction_row(199, 4)
    assert sum(block.num_rows for block in open_source("twemoji", data, "images").blocks()) == 300
    assert isinstance(open_source(str(tmp_path), data, "images"), FolderSource)
