"""Model families. A family is a room here; nothing outside it knows how its model works."""

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reca.models.base import UnifiedModel

FAMILIES = {
    "showo": "ShowoModel",
    "harmon": "HarmonModel",
    "janus": "JanusProModel",
    "openuni": "OpenUniModel",
    "bagel": "BagelModel",
}
"""Room under `reca.models` -> class in its module `model`; imported only when asked for."""

EDITORS = frozenset({"bagel"})
"""Families that edit pictures: their classes are `reca.models.base.Editor`s too. Known without importing torch."""


def unknown_family(name: str) -> str | None:
    """What is wrong with the name of a family, and the nearest one; None if it is one. `module:Class` is not imported
    for it.
    """
    if ":" in name or name in FAMILIES:
        return None
    nearest = difflib.get_close_matches(name, FAMILIES, n=1, cutoff=0.0)[0]
    return f"model.family={name!r} is unknown; nearest: {nearest!r} (of {', '.join(FAMILIES)})"


def family_class(name: str) -> "type[UnifiedModel]":
    """Import the class of a family: a name of `FAMILIES`, or `module:Class` of a package of your own.

    Raises:
        ValueError: unknown family; the message names the nearest one.
    """
    if problem := unknown_family(name):
        raise ValueError(problem)
    if name in FAMILIES:
        return getattr(importlib.import_module(f"reca.models.{name}.model"), FAMILIES[name])
    return pkgutil.resolve_name(name)


def can_edit(name: str) -> bool:
    """Whether a family edits pictures; one of a package of your own is imported to see.

    Raises:
        ValueError: unknown family.
    """
    if name in FAMILIES:
        return name in EDITORS
    from reca.models.base import Editor

    return issubclass(family_class(name), Editor)
