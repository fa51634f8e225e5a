"""The edit matrix: which edits of a project change what a stage reaches."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pipelines.dsl.errors import FingerprintError
from pipelines.dsl.fingerprint import Fingerprinter, code_changes

PROJECT = {
    "shop/__init__.py": '"""A project."""\n',
    "shop/steps.py": '''"""Stages."""

from typing import TYPE_CHECKING

from pipelines.dsl import Artifact, Resources, StageContext, stage

from shop import tables
from shop.config import Config
from shop.work import helper as do_help
from shop.work import make_scaler

if TYPE_CHECKING:
    from shop.config import Extra

SCALE = make_scaler(3)


@stage(resources=Resources(cpus=1))
def step(ctx: StageContext, config: Config, size: int = 4) -> Artifact:
    """Do it."""
    # a comment
    from shop.late import finish

    rows = do_help(size) + tables.LIMITS["a"] + SCALE(2)
    return finish(rows, plugin(config.name))


def plugin(name: str) -> object:
    import importlib

    return importlib.import_module(f"shop.plugins.{name}").run()


def unrelated() -> int:
    return 1
''',
    "shop/work.py": '''"""Work."""

from collections.abc import Callable

import json

CONSTANT = 5
UNUSED = 6


def helper(size: int, extra: int = 1) -> int:
    """Help."""
    return deeper(size) + extra + CONSTANT


def deeper(size: int) -> int:
    return size * 2


def make_scaler(k: int) -> Callable[[int], int]:
    def scale(x: int) -> int:
        return x * k

    return scale
''',
    "shop/config.py": '''"""Configuration."""

from dataclasses import dataclass, field


class Base:
    def inherited(self) -> int:
        return 1


@dataclass(frozen=True)
class Inner:
    depth: int = 2

    def area(self) -> int:
        return self.depth**2


@dataclass(frozen=True)
class Config(Base):
    """Values."""

    name: str = "a"
    inner: Inner = field(default_factory=Inner)

    def doubled(self) -> str:
        return self.name * 2


class Extra:
    pass
''',
    "shop/late.py": '''"""Imported inside the body."""

from shop.records import *


def finish(rows: int, more: object) -> object:
    return Record(rows)
''',
    "shop/records.py": '''"""Reached through a star import."""


class Parent:
    def shared(self) -> int:
        return 0


class Record(Parent):
    kind = "plain"

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def never_named(self) -> int:
        return 7
''',
    "shop/tables.py": '''"""Tables."""

import shop.effects

LIMITS = {"a": 1}
LIMITS.update(b=2)

try:
    import fastlib
except ImportError:
    fastlib = None

if fastlib:
    SPEED = 2
else:
    SPEED = 1

if __name__ == "__main__":
    print("never")
''',
    "shop/effects.py": '''"""Imported for what it does."""

import os

os.environ["SHOP"] = "1"
QUIET = 1
''',
    "shop/plugins/__init__.py": "",
    "shop/plugins/a.py": '"""A plugin."""\n\n\ndef run() -> int:\n    return 1\n',
    "shop/plugins/b.py": '"""A plugin."""\n\n\ndef run() -> int:\n    return 2\n',
    "shop/apart.py": "VALUE = 1\n",
}

EDITS = [
    # what, file, old, new, definition that is named (empty: no rerun)
    ("comment", "shop/steps.py", "# a comment", "# another comment, longer", ""),
    ("docstring of the body", "shop/steps.py", '"""Do it."""', '"""Do it well."""', ""),
    ("docstring gone", "shop/work.py", '    """Help."""\n', "", ""),
    ("docstring of the module", "shop/work.py", '"""Work."""', '"""Toil."""', ""),
    ("docstring of a class", "shop/config.py", '    """Values."""\n\n', "", ""),
    ("formatting", "shop/work.py", "return deeper(size) + extra", "return (\n        deeper(\n  size)\n + extra", None),
    ("quotes", "shop/tables.py", '{"a": 1}', "{'a': 1}", ""),
    ("blank lines", "shop/work.py", "def deeper", "\n\ndef deeper", ""),
    ("resources", "shop/steps.py", "cpus=1", "cpus=2", ""),
    ("unrelated function", "shop/steps.py", "return 1", "return 2", ""),
    ("unused constant", "shop/work.py", "UNUSED = 6", "UNUSED = 7", ""),
    ("annotation in a function", "shop/work.py", "size: int, extra: int", "size: float, extra: float", ""),
    ("unrelated module", "shop/apart.py", "VALUE = 1", "VALUE = 2", ""),
    ("main guard", "shop/tables.py", '"never"', '"ever"', ""),
    ("default of a field that the key holds", "shop/config.py", 'name: str = "a"', 'name: str = "b"', ""),
    ("unused name in a module with effects", "shop/effects.py", "QUIET = 1", "QUIET = 2", ""),
    ("body", "shop/steps.py", 'tables.LIMITS["a"] +', 'tables.LIMITS["b"] +', "shop.steps.step"),
    ("default argument of the body", "shop/steps.py", "size: int = 4", "size: int = 5", "shop.steps.step"),
    ("helper", "shop/work.py", "+ extra + CONSTANT", "- extra + CONSTANT", "shop.work.helper"),
    ("helper of a helper", "shop/work.py", "size * 2", "size * 3", "shop.work.deeper"),
    ("constant", "shop/work.py", "CONSTANT = 5", "CONSTANT = 50", "shop.work.CONSTANT"),
    ("default argument of a helper", "shop/work.py", "extra: int = 1", "extra: int = 2", "shop.work.helper"),
    ("closure", "shop/work.py", "return x * k", "return x + k", "shop.work.make_scaler"),
    ("argument of a closure", "shop/steps.py", "make_scaler(3)", "make_scaler(4)", "shop.steps.SCALE"),
    ("class method", "shop/records.py", "self.rows = rows", "self.rows = 2 * rows", "shop.records.Record.__init__"),
    ("method never named", "shop/records.py", "return 7", "return 8", "shop.records.Record.never_named"),
    ("base class", "shop/records.py", "return 0", "return 1", "shop.records.Parent.shared"),
    ("class attribute", "shop/records.py", '"plain"', '"rich"', "shop.records.Record"),
    ("import inside the body", "shop/late.py", "Record(rows)", "Record(rows + 1)", "shop.late.finish"),
    ("method of a parameter", "shop/config.py", "self.name * 2", "self.name * 3", "shop.config.Config.doubled"),
    ("method of a field's class", "shop/config.py", "self.depth**2", "self.depth**3", "shop.config.Inner.area"),
    ("inherited method of a parameter", "shop/config.py", "return 1", "return 2", "shop.config.Base.inherited"),
    ("table", "shop/tables.py", '{"a": 1}', '{"a": 2}', "shop.tables.LIMITS"),
    ("change of a table", "shop/tables.py", "update(b=2)", "update(a=2)", "shop.tables.<module>"),
    ("effect of an imported module", "shop/effects.py", '"1"', '"2"', "shop.effects.<module>"),
    ("plugin imported by name", "shop/plugins/a.py", "return 1", "return 3", "shop.plugins.a.run"),
    ("other plugin that the name could mean", "shop/plugins/b.py", "return 2", "return 3", "shop.plugins.b.run"),
    ("effect of a package", "shop/__init__.py", '"""A project."""', "print('hello')", "shop.<module> (new)"),
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in PROJECT.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("shop", "lone")]:
        del sys.modules[name]


def load(name: str) -> ModuleType:
    importlib.invalidate_caches()
    return importlib.import_module(name)


@pytest.mark.parametrize(("what", "file", "old", "new", "named"), EDITS, ids=[edit[0] for edit in EDITS])
def test_edit_matrix(project: Path, what: str, file: str, old: str, new: str, named: str | None) -> None:
    function = load("shop.steps").step.function
    before = Fingerprinter().of(function)
    text = (project / file).read_text()
    assert old in text
    edited = text.replace(old, new, 1)
    if named is None:
        edited = edited.replace("+ CONSTANT\n", "+ CONSTANT)\n", 1)
    (project / file).write_text(edited)
    changes = code_changes(before, Fingerprinter().of(function))
    assert changes == ([named] if named else [])


def test_nothing_of_the_words_or_of_libraries_is_followed(project: Path) -> None:
    reached = Fingerprinter().of(load("shop.steps").step.function)
    assert {name.partition(".")[0] for name in reached} == {"shop"}
    assert "shop.steps.unrelated" not in reached
    assert "shop.work.UNUSED" not in reached


def test_a_second_reader_parses_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function = load("shop.steps").step.function
    first = Fingerprinter()
    expected = first.of(function)
    first.save()
    monkeypatch.setattr("pipelines.dsl.modules.parse", lambda *_: pytest.fail("parsed again"))
    assert Fingerprinter().of(function) == expected


def test_a_broken_cache_is_made_again(project: Path, private_cache: Path) -> None:
    function = load("shop.steps").step.function
    first = Fingerprinter()
    expected = first.of(function)
    first.save()
    for file in private_cache.rglob("*.msgpack"):
        file.write_bytes(b"broken")
    assert Fingerprinter().of(function) == expected


LONE = """
from pipelines.dsl import Artifact, StageContext, stage
import importlib

def outer(k, f):
    @stage()
    def inner(ctx: StageContext) -> Artifact:
        return f(k)
    return inner

def double(x):
    return 2 * x

def blind(name):
    return importlib.import_module(name)

@stage()
def seeing(ctx: StageContext, name: str) -> Artifact:
    return blind(name)
"""


def test_a_stage_made_in_a_function_counts_what_it_caught(project: Path) -> None:
    (project / "lone.py").write_text(LONE)
    lone = load("lone")
    reader = Fingerprinter()
    three, four = reader.of(lone.outer(3, lone.double).function), reader.of(lone.outer(4, lone.double).function)
    assert code_changes(three, four) == ["lone.inner caught k"]
    assert "lone.double" in three
    with pytest.raises(FingerprintError, match="'k' caught from the enclosing function"):
        reader.of(lone.outer(object(), lone.double).function)


def test_an_import_that_cannot_be_followed_is_refused(project: Path) -> None:
    (project / "lone.py").write_text(LONE)
    with pytest.raises(FingerprintError, match=r"lone line 15.*literal prefix"):
        Fingerprinter().of(load("lone").seeing.function)


def test_a_file_that_does_not_parse_is_named(project: Path) -> None:
    function = load("shop.steps").step.function
    (project / "shop/work.py").write_text("def helper(:\n")
    with pytest.raises(FingerprintError, match=r"shop\.work does not parse"):
        Fingerprinter().of(function)
