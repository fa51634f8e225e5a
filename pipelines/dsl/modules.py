"""The modules of the project under a few root folders: found, read and parsed once, never imported."""

import os
import platform
from functools import cache
from pathlib import Path

import msgspec

from pipelines.dsl import canonical
from pipelines.dsl.files import cache_folder, write_atomic
from pipelines.dsl.source import DIGEST_BYTES, FORMAT, Source, parse

IGNORED = __name__.rpartition(".")[0]
"""The package of the pipeline words: how a stage is scheduled or stored does not change its result."""

CACHED = 2000
"""Parsed modules remembered at most."""

NOTHING = Source({}, {}, (), ())
"""A package without `__init__.py`."""


class ParseCache:
    """Parsed sources by content, kept in the user's cache between starts; it may be deleted at any time."""

    def __init__(self) -> None:
        """Read what earlier starts have parsed."""
        self._file = cache_folder("source") / f"{FORMAT}-{platform.python_version()}.msgpack"
        self._known = _read(self._file)
        self._fresh: dict[str, Source] = {}

    def source(self, file: Path, module: str) -> Source:
        """Return a parsed file.

        Raises:
            FingerprintError: it does not parse.
        """
        data = file.read_bytes()
        key = canonical.digest(data + b"\0" + module.encode(), DIGEST_BYTES)
        if key not in self._known:
            text = data.decode("utf-8", errors="replace")
            self._known[key] = self._fresh[key] = parse(text, module, file.name == "__init__.py", IGNORED)
        return self._known[key]

    def save(self) -> None:
        """Remember what was parsed now."""
        if self._fresh:
            kept = dict(list(self._known.items())[-CACHED:]) | self._fresh
            write_atomic(self._file, msgspec.msgpack.encode(kept), durable=False)
            self._fresh = {}


class Modules:
    """The modules below some root folders, by dotted name."""

    def __init__(self, cache: ParseCache, roots: tuple[Path, ...]) -> None:
        """Look below `roots`, the first that has a module counts; nothing is read yet."""
        self._cache = cache
        self._roots = roots
        self._loaded: dict[str, Source | None] = {}
        self._folders: dict[str, tuple[Path, ...]] = {"": roots}

    def get(self, module: str) -> Source | None:
        """Return a module's source, or None when the project has no such module."""
        if module not in self._loaded:
            ignored = (module + ".").startswith(IGNORED + ".")
            self._loaded[module] = None if ignored else self._find(module)
        return self._loaded[module]

    def split(self, dotted: str) -> tuple[str, list[str]]:
        """Split into the longest module of the project and the rest; an empty module when it is not the project's."""
        parts = dotted.split(".")
        module, count = "", 0
        for name in parts:
            longer = f"{module}.{name}" if module else name
            if module not in self._folders or self.get(longer) is None:
                break
            module, count = longer, count + 1
        return module, parts[count:]

    def below(self, package: str) -> list[str]:
        """Return the names of the modules and packages directly below a package."""
        names = {name.removesuffix(".py") for folder in self._folders.get(package, ()) for name in entries(folder)}
        return sorted(name for name in names - {"__init__"} if self.get(f"{package}.{name}") is not None)

    def _find(self, module: str) -> Source | None:
        parent, _, name = module.rpartition(".")
        for folder in self._folders.get(parent, ()):
            present = entries(folder)
            inside = entries(folder / name) if name in present else frozenset[str]()
            if "__init__.py" not in inside and f"{name}.py" in present:
                return self._cache.source(folder / f"{name}.py", module)
            if inside:
                self._folders[module] = (folder / name,)
                init = folder / name / "__init__.py"
                return self._cache.source(init, module) if "__init__.py" in inside else NOTHING
        return None


@cache
def project_roots(root: Path) -> tuple[Path, ...]:
    """Return where a stage's own modules lie, then where this project's do (unless it is installed as a library)."""
    here = Path(__file__).resolve().parents[2]
    installed = "site-packages" in here.parts or "dist-packages" in here.parts
    return (root,) if installed or root == here else (root, here)


def entries(folder: Path) -> frozenset[str]:
    """Return the names in a folder; none when it is no folder."""
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def _read(file: Path) -> dict[str, Source]:
    try:
        return msgspec.msgpack.decode(file.read_bytes(), type=dict[str, Source])
    except (OSError, msgspec.DecodeError):
        return {}
