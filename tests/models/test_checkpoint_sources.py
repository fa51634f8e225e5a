import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pytest
import s3fs
from object_store import s3_bucket

from reca.models.errors import CheckpointError
from reca.models.sources import HubSnapshot, hub_name, local_checkpoint, snapshot

FILES = {"config.json": b'{"family": "showo"}', "clip/config.json": b"{}"}
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that a snapshot takes; files of the commit `b...` end in a blank."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        path = urlsplit(self.path).path
        status, headers, body = 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if "/org/gated" in path:
            status, headers = 403, {"X-Error-Code": "GatedRepo"}
        for name in (*COMMITS, *COMMITS.values()):
            commit = COMMITS.get(name, name)
            resolve = f"/org/tiny/resolve/{name}/"
            if path in (f"/api/models/org/tiny/revision/{name}", *(["/api/models/org/tiny"] if name == "main" else [])):
                siblings = [{"rfilename": file} for file in FILES]
                status, headers = 200, {}
                body = json.dumps({"id": "org/tiny", "sha": commit, "siblings": siblings}).encode()
            elif path == f"/api/models/org/tiny/tree/{name}":
                tree = [
                    {"type": "file", "path": file, "size": len(_content(file, commit)), "oid": file.encode().hex()}
                    for file in FILES
                ]
                status, headers, body = 200, {"X-Repo-Commit": commit}, json.dumps(tree).encode()
            elif path.startswith(resolve) and path.removeprefix(resolve) in FILES:
                file = path.removeprefix(resolve)
                status, body = 200, _content(file, commit)
                headers = {"X-Repo-Commit": commit, "ETag": f'"{commit[:4]}{file.encode().hex()}"'}
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _content(file: str, commit: str) -> bytes:
    return FILES[file] + (b" " if commit == COMMITS["v1"] else b"")


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(endpoint: str, home: Path, *places: str) -> list[str]:
    """What a fresh process makes of hub ids (the hub's address is read at import): URI and folder, or the error."""
    code = (
        "import sys\n"
        "from reca.models.errors import CheckpointError\n"
        "from reca.models.sources import hub_name, snapshot\n"
        "for place in sys.argv[1:]:\n"
        "    try:\n"
        "        found = snapshot(*hub_name(place))\n"
        "        print(found.uri, found.local())\n"
        "    except CheckpointError as error:\n"
        "        print('error', error)\n"
    )
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *places],
        env={**os.environ, **settings},
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout.splitlines()


def test_hub_ids_are_pinned_downloaded_and_found_again_without_the_hub(hub: str, tmp_path: Path) -> None:
    places = ("org/tiny", "hf://org/tiny@v1", "org/none", "org/gated", f"org/gated@{'c' * 40}")
    newest, tagged, missing, *gated = ask(hub, tmp_path, *places)
    uri, folder = newest.split()
    assert uri == f"hf://org/tiny@{COMMITS['main']}"
    assert {name: (Path(folder) / name).read_bytes() for name in FILES} == FILES
    uri, folder = tagged.split()
    assert uri == f"hf://org/tiny@{COMMITS['v1']}"
    assert (Path(folder) / "config.json").read_bytes() == FILES["config.json"] + b" "
    assert missing.startswith("error org/none: neither a folder here nor a repository or revision of the hub")
    assert [
        line.startswith(f"error {place}: the repository is gated")
        for line, place in zip(gated, ("org/gated", f"hf://org/gated@{'c' * 40}"), strict=True)
    ] == [True, True], gated
    nowhere = "http://127.0.0.1:9"
    again = ask(nowhere, tmp_path, "org/tiny", f"org/tiny@{COMMITS['v1']}", "org/other")
    assert again[:2] == [newest, tagged]
    assert again[2].startswith("error org/other: neither a folder here, nor in the hub's cache")


def test_paths_urls_and_hub_ids_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_name("org/name") == ("org/name", "")
    assert hub_name("org/name@v1.0") == ("org/name", "v1.0")
    assert hub_name("hf://org/name@refs/pr/1") == ("org/name", "refs/pr/1")
    for path in ("s3://bucket/name", "/org/name", "./org/name", "one", "a/b/c", "~/name"):
        assert hub_name(path) is None
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert hub_name("org/name") is None
    assert hub_name("hf://org/name") == ("org/name", "")
    with pytest.raises(CheckpointError, match="expected hf://ORG/NAME"):
        hub_name("hf://name")


def test_a_whole_commit_is_taken_as_it_is() -> None:
    assert snapshot("org/name", "c" * 40) == HubSnapshot("org/name", "c" * 40)


def test_objects_that_stand_for_folders_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECA_CACHE", str(tmp_path / "cache"))
    with s3_bucket() as bucket:
        store = s3fs.S3FileSystem(skip_instance_cache=True)
        root = f"{bucket.removeprefix('s3://')}/my models/tiny"
        for name, content in FILES.items():
            store.pipe_file(f"{root}/{name}", content)
        for key in ("my models/tiny/", "my models/tiny/clip/"):
            store.call_s3("put_object", Bucket=bucket.removeprefix("s3://"), Key=key, Body=b"")
        folder = local_checkpoint(f"{bucket}/my models/tiny")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(FILES)


def test_folders_stay_and_urls_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    assert local_checkpoint(str(tmp_path / "model")) == tmp_path / "model"
    fs = fsspec.filesystem("memory")
    for name, content in FILES.items():
        fs.pipe_file(f"/checkpoints/tiny/{name}", content)
    folder = local_checkpoint("memory://checkpoints/tiny")
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    for place in (str(tmp_path / "gone"), "memory://checkpoints/gone", "nosuch://bucket/x"):
        with pytest.raises(CheckpointError, match=place):
            local_checkpoint(place)
