"""Recipes and their overrides: typed, checked, and with the origin of every changed value.

A recipe is a function that returns a frozen dataclass (of dataclasses). A value is changed by `--set a.b=value`; its
text is read as the type of the field. A recipe may also come from a JSON or TOML file that names fields of the same
class.
"""

import contextlib
import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from pipelines.dsl.errors import SettingsError


@dataclass(frozen=True)
class Origin:
    """Where an overridden value comes from: its dotted field, the value, and who set it in place of what."""

    path: str
    value: object
    source: str


def load_recipe(name: str, recipes: Mapping[str, Callable[[], Any]], default: str) -> Any:
    """Return the recipe of a name, or of a JSON or TOML file (`*.json`, `*.toml`) whose fields stand over class
    defaults.

    Raises:
        SettingsError: no such recipe or file, or the file does not fit; the message names the nearest valid name.
    """
    if name in recipes:
        return normalize(recipes[name](), f"recipe {name}")
    path = Path(name)
    if path.suffix not in (".json", ".toml"):
        raise SettingsError(
            f"there is no recipe {name!r}{nearest(name, recipes)}; recipes are {', '.join(recipes)}, "
            "or a file that ends in .json or .toml"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"the recipe file {name} cannot be read: {error}") from error
    try:
        plain = msgspec.toml.decode(data) if path.suffix == ".toml" else msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise SettingsError(f"the recipe file {name} is no valid {path.suffix[1:].upper()}: {error}") from error
    kind = type(recipes[default]())
    check_names(kind, plain, "", name)
    return convert(plain, kind, f"the recipe file {name}")


def normalize(value: Any, where: str) -> Any:
    """Bring every field to its declared type (an int in a float field becomes a float), so that equal values have
    equal keys."""
    return convert(msgspec.to_builtins(value), type(value), where)


def convert(plain: object, kind: type, where: str) -> Any:
    """Make a configuration class from plain values.

    Raises:
        SettingsError: a value does not fit its field.
    """
    try:
        return msgspec.convert(plain, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise SettingsError(f"{where} does not fit {kind.__name__}: {error}") from error


def apply(value: Any, assignments: Iterable[str], source: str, otherwise: str) -> tuple[Any, list[Origin]]:
    """Apply `a.b=text` assignments to a frozen dataclass.

    Args:
        value: the dataclass.
        assignments: texts such as `training.updates=40`.
        source: who set them (`--set`).
        otherwise: what gave the value before (`recipe smoke`).

    Returns:
        The changed dataclass, and an origin for each field that was set.

    Raises:
        SettingsError: unknown field (the nearest one is named), or a text that does not read as the field's type.
    """
    changed = value
    origins: dict[str, Origin] = {}
    for assignment in assignments:
        path, sign, text = (part.strip() for part in assignment.partition("="))
        if not sign:
            raise SettingsError(f"{source} {assignment}: write it as field=value, such as {source} a.b=3")
        changed = _assign(changed, path.split("."), text, path, source)
        before = read(value, path)
        says = "nothing" if before == "" else before
        origins[path] = Origin(path, read(changed, path), f"{source}; {otherwise} says {says}")
    return normalize(changed, source), list(origins.values())


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest valid name, or nothing."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def leaves(kind: type, prefix: str = "") -> list[str]:
    """Return the dotted names of all leaf fields of a configuration class."""
    names: list[str] = []
    for name, annotation in _fields(kind).items():
        inner = _dataclass_in(annotation)
        names += leaves(inner, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return names


def check_names(kind: type, plain: object, prefix: str, where: str) -> None:
    """Refuse names in plain values that the configuration class does not have.

    Raises:
        SettingsError: the message names the nearest valid one.
    """
    if not isinstance(plain, dict):
        raise SettingsError(f"{where}: {prefix.rstrip('.') or 'the file'} must hold named values, not {plain!r}")
    known = _fields(kind)
    for name, item in cast(dict[str, object], plain).items():
        if name not in known:
            raise SettingsError(_unknown(kind, prefix + name, prefix, where))
        inner = _dataclass_in(known[name])
        if inner is not None and item is not None:
            check_names(inner, item, f"{prefix}{name}.", where)


def _assign(value: Any, parts: list[str], text: str, path: str, source: str) -> Any:
    known = _fields(type(value))
    name = parts[0]
    prefix = path[: len(path) - len(".".join(parts))]
    if name not in known:
        raise SettingsError(_unknown(type(value), path, prefix, source))
    inner = getattr(value, name)
    if len(parts) > 1:
        if not dataclasses.is_dataclass(inner):
            raise SettingsError(
                f"{source} {path}: {prefix}{name} is a single value with no fields below; set it itself"
            )
        changed = _assign(inner, parts[1:], text, path, source)
    elif dataclasses.is_dataclass(inner):
        some = ", ".join(f"{path}.{field}" for field in _fields(type(inner)))
        raise SettingsError(f"{source} {path} is a group of values; set one of {some}")
    else:
        changed = _parse(known[name], text, path, source)
    try:
        return dataclasses.replace(value, **{name: changed})
    except ValueError as error:
        raise SettingsError(f"{source} {path}={text}: {error}") from error


def _parse(annotation: Any, text: str, path: str, source: str) -> object:
    for reading in _readings(text):
        with contextlib.suppress(msgspec.ValidationError):
            return msgspec.convert(reading, annotation, strict=False)
    raise SettingsError(f"{source} {path}={text}: {path} wants {_type_name(annotation)}, and {text!r} is none")


def _readings(text: str) -> Iterator[object]:
    """What a text may mean: None, the text itself, JSON, or the inside of a JSON list."""
    if text == "null":
        yield None
    yield text
    for encoded in (text, f"[{text}]"):
        with contextlib.suppress(msgspec.DecodeError):
            yield msgspec.json.decode(encoded)


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(str(value) or "'' (empty)" for value in typing.get_args(annotation))
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _unknown(kind: type, path: str, prefix: str, where: str) -> str:
    below = [prefix + name for name in leaves(kind)] + [prefix + name for name in _fields(kind)]
    return f"{where}: there is no field {path!r}{nearest(path, below) or _list(prefix, kind)}"


def _list(prefix: str, kind: type) -> str:
    return f"; fields are {', '.join(prefix + name for name in _fields(kind))}"


def read(value: Any, path: str) -> object:
    """Return the value of a dotted field."""
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _fields(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}


def _dataclass_in(annotation: Any) -> type | None:
    """The dataclass an annotation holds, also when optional."""
    if isinstance(annotation, type):
        return annotation if dataclasses.is_dataclass(annotation) else None
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((found for arg in typing.get_args(annotation) if (found := _dataclass_in(arg))), None)
    return None
