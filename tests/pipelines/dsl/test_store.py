import errno
import os
import uuid
from pathlib import Path

import msgspec
import pytest
from small_pipeline import Recipe, Text, make, small

from pipelines.dsl import AlteredError, External, Store, StoreError, make_plan, planner
from pipelines.dsl.errors import BuildError
from pipelines.dsl.files import Files
from pipelines.dsl.worker import restore


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    return Store(f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}/store")


def artifact(store: Store, only: str = "") -> Text:
    graph = small.build(Recipe())
    made = make(graph, store, planner(graph, store, "rerun"), only)["write"]
    found = restore(Text, made.fields, store.files.join(made.path), made.key)
    assert isinstance(found, Text)
    return found


def test_artifacts_come_back(store: Store) -> None:
    found = artifact(store)
    assert found.length == 4
    folder = found.local()
    assert (folder / "part.txt").read_text() == "xxxx"
    assert (folder / "more" / "other.txt").read_text() == "constant"
    assert found.local() == folder


def test_everything_is_reused_afterwards(store: Store) -> None:
    artifact(store)
    graph = small.build(Recipe())
    verdicts = make_plan(graph, planner(graph, Store(store.uri), "rerun")).verdicts
    assert {verdict.decision for verdict in verdicts.values()} == {"reuse"}
    assert len(list(store.manifests())) == 2


@pytest.mark.parametrize("full", [False, True])
def test_altered_files_are_found(store: Store, full: bool) -> None:
    artifact(store)
    manifest = store.manifest("write", small.build(Recipe()).nodes[0].key)
    assert manifest is not None
    assert store.problems(manifest, full) == []
    store.files.write(f"{manifest.path}/part.txt", b"yyyy")
    store.files.delete(f"{manifest.path}/more/other.txt")
    where = store.files.join(manifest.path)
    assert store.problems(manifest, full) == [
        f"{where}/more/other.txt is missing",
        f"{where}/part.txt was altered (same size, other content)",
    ]


def test_an_altered_artifact_is_not_handed_out(store: Store) -> None:
    found = artifact(store, only="write")
    Files(found.uri).write("part.txt", b"yyyy")
    with pytest.raises(AlteredError, match=r"part\.txt was altered.*run the same command again"):
        found.local()


def test_an_artifact_that_never_was_in_a_store_says_so() -> None:
    with pytest.raises(StoreError, match="only artifacts of finished stages"):
        Text.of(length=1).local()


def test_exclusive_creation(store: Store) -> None:
    assert store.files.create("leases/a.json", b"1")
    assert not store.files.create("leases/a.json", b"2")
    assert store.files.read("leases/a.json") == b"1"
    store.files.delete("leases/a.json")
    assert store.files.create("leases/a.json", b"3")


def test_names_and_listing(store: Store) -> None:
    assert store.files.names("runs") == []
    store.write_record("runs/b.json", {"x": 1})
    store.write_record("runs/a.json", {"x": 2})
    assert store.files.names("runs") == ["a.json", "b.json"]
    assert store.read_record("runs/a.json") == {"x": 2}
    assert [(entry.path, entry.size > 0) for entry in store.files.listing("runs")] == [
        ("a.json", True),
        ("b.json", True),
    ]
    store.files.write("runs/a.json", b"{")
    with pytest.raises(AlteredError, match=r"runs/a\.json cannot be read"):
        store.read_record("runs/a.json")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(str(tmp_path / "file" / "store"))
    with pytest.raises(StoreError, match=r"cannot write the store .*file/store.*--store URI"):
        store.probe()


def test_a_missing_bucket_is_named(s3: str) -> None:
    with pytest.raises(StoreError, match="cannot write the store s3://no-such-bucket"):
        Store("s3://no-such-bucket/store").probe()


def test_a_scheme_that_nothing_opens_is_named() -> None:
    with pytest.raises(StoreError, match=r"nope://bucket/store is no place that fsspec can open.*scheme"):
        Store("nope://bucket/store").probe()


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import NoCredentialsError

    def refuse(*_: object) -> None:
        raise NoCredentialsError

    monkeypatch.setattr(Files, "write", refuse)
    with pytest.raises(StoreError, match="cannot write the store s3://bucket/store: Unable to locate credentials"):
        Store("s3://bucket/store").probe()


def test_a_full_disk_is_named_and_leaves_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"the disk is full at the store .*; free space there"):
        store.write_record("manifests/write/a.json", {})
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_manifests_are_json_that_people_can_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    artifact(store)
    file = next((tmp_path / "store" / "manifests" / "write").iterdir())
    manifest = msgspec.json.decode(file.read_bytes())
    assert manifest["identity"] == {"data": {"count": 4, "seed": 1}}
    assert manifest["files"][1]["path"] == "part.txt"
    assert manifest["environment"]["packages"]["torch"].startswith("2.13")
    assert manifest["core_source"] == "cpu time"


class TestExternal:
    def test_identity_is_content_not_place(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name / "deep").mkdir(parents=True)
            (tmp_path / name / "deep" / "x.bin").write_bytes(b"123")
        one, other = External(str(tmp_path / "a")), External(str(tmp_path / "b"))
        assert one.canonical_form() == other.canonical_form()
        (tmp_path / "b" / "deep" / "x.bin").write_bytes(b"124")
        assert one.canonical_form() != other.canonical_form()
        (tmp_path / "a" / "deep" / "x.bin").rename(tmp_path / "a" / "deep" / "y.bin")
        assert one.canonical_form() != External(str(tmp_path / "b")).canonical_form()

    def test_a_change_within_one_clock_tick_is_seen(self, tmp_path: Path) -> None:
        file = tmp_path / "x.bin"
        seen: set[str] = set()
        for value in range(20):
            file.write_bytes(bytes([value]))
            seen.add(External(str(file)).canonical_form()["content"])
        assert len(seen) == 20

    def test_an_unchanged_old_file_is_not_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "x.bin"
        file.write_bytes(b"123")
        monkeypatch.setattr("pipelines.dsl.artifact.RACY_NS", -1)
        first = External(str(file)).canonical_form()
        monkeypatch.setattr("pipelines.dsl.artifact.hash_file", lambda *_: pytest.fail("read again"))
        assert External(str(file)).canonical_form() == first

    def test_missing_and_empty_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for name in ("nothing", "empty"):
            with pytest.raises(BuildError, match=f"{name} is missing or empty .*check the path"):
                External(str(tmp_path / name)).canonical_form()
        (tmp_path / "empty" / "link").symlink_to(tmp_path / "gone")
        with pytest.raises(BuildError, match=r"cannot be read: .*gone|cannot be read: .*link"):
            External(str(tmp_path / "empty")).canonical_form()
        (tmp_path / "hollow.bin").touch()
        with pytest.raises(BuildError, match="holds no data"):
            External(str(tmp_path / "hollow.bin")).canonical_form()

    def test_an_unreachable_place_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from botocore.exceptions import NoCredentialsError

        def refuse(*_: object) -> None:
            raise NoCredentialsError

        monkeypatch.setattr(Files, "listing", refuse)
        with pytest.raises(BuildError, match="s3://bucket/x cannot be read: Unable to locate credentials; check"):
            External("s3://bucket/x").canonical_form()

    def test_relative_places_work_from_elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "x.bin").write_bytes(b"123")
        monkeypatch.chdir(tmp_path)
        bound = External("x.bin").bound()
        monkeypatch.chdir("/")
        assert bound.local() == tmp_path / "x.bin"

    def test_remote_folders_and_files_are_downloaded_once(self, s3: str) -> None:
        files = Files(f"{s3}/input")
        files.write("a.txt", b"one")
        files.write("deep/b.txt", b"two")
        folder = External(f"{s3}/input").local()
        assert (folder / "deep" / "b.txt").read_text() == "two"
        assert External(f"{s3}/input").local() == folder
        assert External(f"{s3}/input/a.txt").local().read_text() == "one"
        files.write("a.txt", b"new")
        assert (External(f"{s3}/input").local() / "a.txt").read_text() == "new"
