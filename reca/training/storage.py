"""Folders of the store on this machine."""

import os
import shutil
import tempfile
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any, cast

from reca.data.files import filesystem, is_local


def local_copy(uri: str) -> Path:
    """A local folder with the files of `uri`: the folder itself when it is local, else a copy made once per machine.

    Copies lie in `$RECA_CACHE` (default: `reca-data` in the temporary folder) under a digest of names, sizes and
    entity tags.

    Raises:
        ValueError: there is nothing at a remote `uri` (a local path is not looked at).
        OSError: the place cannot be reached, or the copy cannot be written.
    """
    fs, path = filesystem(uri)
    if is_local(fs):
        return Path(path)
    listing = cast(dict[str, dict[str, Any]], fs.find(path, detail=True))
    # Object stores may hold empty objects that stand for folders.
    folders = {str(parent) for name in listing for parent in PurePosixPath(name).parents}
    found = {
        name.removeprefix(path).lstrip("/"): f"{info['size']} {info.get('ETag', info.get('mtime', ''))}"
        for name, info in sorted(listing.items())
        if name.rstrip("/") not in folders
    }
    if not found:
        raise ValueError(f"{uri}: missing or empty; check the path")
    digest = blake2b(repr((uri, found)).encode(), digest_size=16).hexdigest()
    folder = Path(os.environ.get("RECA_CACHE") or f"{tempfile.gettempdir()}/reca-data") / digest
    if not folder.exists():
        _fetch_folder(uri, list(found), folder)
    return folder


def _fetch_folder(uri: str, names: list[str], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix="partial-"))
    try:
        download(uri, names, partial)
        partial.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was quicker with the same content
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def download(uri: str, names: list[str], into: Path) -> None:
    """Copy files of a folder, named relative to `uri`, to a local folder."""
    fs, path = filesystem(uri)
    for name in names:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(f"{path.rstrip('/')}/{name}", str(into / name))
