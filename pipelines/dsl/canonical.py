"""Canonical encoding of declared parameters, and the keys made from it.

The encoding is all-or-nothing: a value it does not know raises and names the field; nothing is ever turned into text by
`str()` or left out. Types are told apart (`0`, `0.0` and `False` differ, a list differs from a tuple), and `-0.0`
differs from `0.0`: a needless second run is cheaper than a wrong reuse. Mappings are unordered.
"""

import dataclasses
import enum
import hashlib
import math
import struct
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pipelines.dsl.errors import CanonicalError

KEY_BYTES = 20
"""160 bits: no collision to fear in any store, and short enough to read."""


@runtime_checkable
class HasCanonicalForm(Protocol):
    """A value that says itself what identifies it (an outside input: its content, not its place)."""

    def canonical_form(self) -> object:
        """Return plain values to encode in place of this one."""
        ...


def digest(data: bytes, size: int = KEY_BYTES) -> str:
    """Return the blake2b digest of `data`: `2 * size` hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=size).hexdigest()


def key_of(value: object, where: str) -> str:
    """Return the key of a value: 40 hexadecimal digits.

    Raises:
        CanonicalError: something inside has no canonical form; the message names its path, starting with `where`.
    """
    return digest(encode(value, where))


def encode(value: object, where: str) -> bytes:
    """Encode a value so that equal bytes mean equal type and value.

    Known are None, bool, int, float (not NaN or infinite), str, bytes, tuple, list, dict with str keys, enum members,
    frozen dataclasses, and what has a `canonical_form`.

    Raises:
        CanonicalError: for anything else; the message names the path, starting with `where`.
    """
    if isinstance(value, enum.Enum):
        return _frame(b"e", qualified_name(type(value)).encode(), value.name.encode(), encode(value.value, where))
    if isinstance(value, HasCanonicalForm) and not isinstance(value, type):
        return _frame(b"x", qualified_name(type(value)).encode(), encode(value.canonical_form(), where))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode_dataclass(value, where)
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        raise CanonicalError(
            f"{where} is a {qualified_name(type(value))}, which has no canonical form, so no key can be made from it; "
            "use None, bool, int, float, str, bytes, tuple, list, dict with str keys, an enum or a frozen dataclass"
        )
    return encoder(value, where)


def qualified_name(cls: type) -> str:
    """Return `module.Class`; a script run as `__main__` counts as the module that it would be when imported."""
    return f"{module_name(cls.__module__)}.{cls.__qualname__}"


def module_name(name: str) -> str:
    """Return the importable name of a module, also of the one that runs as `__main__`."""
    if name != "__main__":
        return name
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return dotted_name(Path(file).resolve())[0] if file else name


def dotted_name(file: Path) -> tuple[str, Path]:
    """Return the dotted name of a Python file and the folder that must be on `sys.path` for it."""
    parts = [] if file.name == "__init__.py" else [file.stem]
    folder = file.parent
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def readable(value: object) -> Any:
    """Return a JSON-able picture of an encodable value for manifests and messages; it does not carry identity."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, HasCanonicalForm) and not isinstance(value, type):
        return readable(value.canonical_form())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: readable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): readable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [readable(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Flatten nested mappings to `{"a.b": leaf}`; lists stay leaves."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    leaves: dict[str, object] = {}
    for name, item in value.items():
        leaves.update(flatten(item, f"{prefix}.{name}" if prefix else str(name)))
    return leaves


def _encode_dataclass(value: Any, where: str) -> bytes:
    name = qualified_name(type(value))
    if not value.__dataclass_params__.frozen:
        raise CanonicalError(f"{where} is a {name}, a dataclass that can change; declare it @dataclass(frozen=True)")
    fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    return _frame(b"c", name.encode(), *(part for f, v in fields for part in (f.encode(), encode(v, f"{where}.{f}"))))


def _encode_float(value: float, where: str) -> bytes:
    if not math.isfinite(value):
        raise CanonicalError(f"{where} is {value}, which identifies nothing; give a finite number or None")
    return b"f" + struct.pack(">d", value)


def _encode_text(value: str, where: str) -> bytes:
    try:
        return _frame(b"s", value.encode())
    except UnicodeEncodeError as error:
        raise CanonicalError(f"{where} holds text that is not valid Unicode ({error}); mend the text") from error


def _encode_dict(value: dict[Any, object], where: str) -> bytes:
    for name in value:
        if type(name) is not str:
            raise CanonicalError(f"{where} has the key {name!r} of type {type(name).__name__}; keys must be str")
    entries = [(_encode_text(name, where), encode(item, f"{where}.{name}")) for name, item in value.items()]
    return _frame(b"d", *(part for entry in sorted(entries) for part in entry))


def _encode_items(tag: bytes, value: Iterable[object], where: str) -> bytes:
    return _frame(tag, *(encode(item, f"{where}[{i}]") for i, item in enumerate(value)))


def _frame(tag: bytes, *parts: bytes) -> bytes:
    """Tag, number of parts, then each part behind its length: no two different values share an encoding."""
    return b"".join([tag, struct.pack(">Q", len(parts)), *(struct.pack(">Q", len(part)) + part for part in parts)])


_ENCODERS: dict[type, Callable[[Any, str], bytes]] = {
    type(None): lambda value, where: b"n",
    bool: lambda value, where: b"b1" if value else b"b0",
    int: lambda value, where: _frame(b"i", str(value).encode()),
    float: _encode_float,
    str: _encode_text,
    bytes: lambda value, where: _frame(b"y", value),
    tuple: lambda value, where: _encode_items(b"t", value, where),
    list: lambda value, where: _encode_items(b"l", value, where),
    dict: _encode_dict,
}
