"""Replies of a judge, kept as small files named by the digest of what was asked, in a folder behind fsspec."""

from typing import cast

import msgspec
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem

from reca.evaluation.files import put


class Reply(msgspec.Struct, frozen=True):
    """What the judge answered.

    Attributes:
        text: the reply.
        model: name that the endpoint gave itself.
        tokens_in: tokens asked; None when not reported.
        tokens_out: tokens replied.
    """

    text: str
    model: str
    tokens_in: int | None
    tokens_out: int | None


class ReplyCache:
    """A folder of replies.

    Args:
        folder: path or URL; made when needed.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        files, root = cast("tuple[AbstractFileSystem, str]", url_to_fs(folder))
        self._files, self._root = files, root.rstrip("/")

    def get(self, digest: str) -> Reply | None:
        """The kept reply, if there is a whole one."""
        try:
            return msgspec.json.decode(cast("bytes", self._files.cat_file(self._path(digest))), type=Reply)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def put(self, digest: str, reply: Reply) -> None:
        """Keep a reply; a reader never sees half of it."""
        put(self._files, self._path(digest), msgspec.json.encode(reply))

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}.json"
