"""Small files that appear whole or not at all, locally or behind fsspec."""

import os
import posixpath
import uuid

from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem


def put(files: AbstractFileSystem, path: str, content: bytes) -> None:
    """Write a file so that a reader finds all of it or none; several writers may do so at once.

    Args:
        files: file system.
        path: on it; folders above it are made.
        content: of the file.
    """
    files.makedirs(posixpath.dirname(path), exist_ok=True)
    if not isinstance(files, LocalFileSystem):
        # Object stores show a file when its last byte is there.
        files.pipe_file(path, content)
        return
    unfinished = f"{path}.{uuid.uuid4().hex}.part"
    files.pipe_file(unfinished, content)
    os.replace(unfinished, path)
