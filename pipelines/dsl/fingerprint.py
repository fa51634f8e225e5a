"""The code that a stage reaches, as one digest per definition.

From the stage's body through functions, classes, constants, defaults, decorators, closures and imports inside bodies,
over all modules of the project, by reading source and importing nothing. Third-party packages are not followed (their
versions are recorded with each artifact), nor are data files, nor the pipeline words themselves.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines.dsl import canonical
from pipelines.dsl.errors import CanonicalError, FingerprintError
from pipelines.dsl.modules import Modules, ParseCache, project_roots
from pipelines.dsl.source import BELOW, SIDE_EFFECTS, TOUCH, UNKNOWN, Source

Fingerprint = Mapping[str, str]
"""Dotted name of each definition that a stage reaches, to its digest."""


def code_digest(fingerprint: Fingerprint) -> str:
    """Return one digest (40 hexadecimal digits) for a whole fingerprint."""
    return canonical.digest("\n".join(f"{name} {value}" for name, value in sorted(fingerprint.items())).encode())


def code_changes(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Return what differs between two fingerprints, in words, changed definitions first."""
    changed = [name for name in new if name in old and old[name] != new[name]]
    added = [f"{name} (new)" for name in new if name not in old]
    gone = [f"{name} (gone)" for name in old if name not in new]
    return sorted(changed) + sorted(added) + sorted(gone)


class Fingerprinter:
    """Follows code; one instance reads each file once."""

    def __init__(self) -> None:
        """Start with what earlier starts have parsed."""
        self._cache = ParseCache()
        self._modules: dict[tuple[Path, ...], Modules] = {}

    def of(self, function: Callable[..., Any]) -> Fingerprint:
        """Return the fingerprint of a stage body.

        Raises:
            FingerprintError: the code cannot be followed; the message names the place.
        """
        file = inspect.getsourcefile(function)
        if file is None:
            name = function.__qualname__
            raise FingerprintError(f"{name} has no source file; define stages in a file, not in a shell")
        module, root = canonical.dotted_name(Path(file).resolve())
        roots = project_roots(root)
        walk = _Walk(self._modules.setdefault(roots, Modules(self._cache, roots)))
        walk.follow(f"{module}.{function.__qualname__.partition('.')[0]}")
        walk.follow_closure(function, module)
        return walk.reached

    def save(self) -> None:
        """Remember what was parsed, for the next start."""
        self._cache.save()


class _Walk:
    """One traversal from one stage."""

    def __init__(self, modules: Modules) -> None:
        self.modules = modules
        self.reached: dict[str, str] = {}
        self.seen: set[tuple[str, bool]] = set()
        self.touched: set[str] = set()

    def follow(self, start: str) -> None:
        """Reach everything from a dotted name; `(name, True)` reaches only the methods of a class."""
        pending = [(start, False)]
        while pending:
            step = pending.pop()
            if step not in self.seen:
                self.seen.add(step)
                pending.extend(self._step(*step))

    def follow_closure(self, function: Callable[..., Any], module: str) -> None:
        """Reach what a stage that was made inside another function has caught.

        Raises:
            FingerprintError: it is something whose code or value cannot be followed.
        """
        if function.__closure__ is None:
            return
        for name, value in inspect.getclosurevars(function).nonlocals.items():
            where = f"{module}.{function.__name__}: the variable {name!r} caught from the enclosing function"
            owner = getattr(value, "__module__", None)
            if isinstance(owner, str) and hasattr(value, "__qualname__"):
                self.follow(f"{canonical.module_name(owner)}.{value.__qualname__.partition('.')[0]}")
                continue
            try:
                self.reached[f"{module}.{function.__name__} caught {name}"] = canonical.key_of(value, where)
            except CanonicalError as error:
                raise FingerprintError(f"{error}; or make it a declared parameter of the stage") from error

    def _step(self, dotted: str, methods_only: bool) -> Iterable[tuple[str, bool]]:
        if dotted.startswith(UNKNOWN):
            raise FingerprintError(
                f"{dotted.removeprefix(UNKNOWN)} imports a module whose name cannot be known before the run, so "
                "changes of its code would go unseen; write its package as a literal prefix, as in "
                'import_module(f"package.plugins.{name}")'
            )
        only_touched = dotted.startswith(TOUCH)
        module, rest = self.modules.split(dotted.removeprefix(TOUCH))
        source = self.modules.get(module) if module else None
        if source is None:
            return ()
        steps = self._touch(module, source)
        if only_touched:
            return steps
        if rest and rest[0] == BELOW:
            steps += [(f"{module}.{name}", False) for name in self.modules.below(module)]
        elif rest:
            steps += self._reach(module, source, rest, methods_only)
        elif not methods_only:
            steps += [(f"{module}.{name}", False) for name in (*source.definitions, *source.imports)]
        return steps

    def _touch(self, module: str, source: Source) -> list[tuple[str, bool]]:
        """A module that is imported runs its statements, and those of its packages and of what it imports."""
        if module in self.touched:
            return []
        self.touched.add(module)
        steps = [(TOUCH + target, False) for target in source.touched]
        if "." in module:
            steps.append((TOUCH + module.rpartition(".")[0], False))
        if SIDE_EFFECTS in source.definitions:
            steps.append((f"{module}.{SIDE_EFFECTS}", False))
        return steps

    def _reach(self, module: str, source: Source, rest: list[str], methods_only: bool) -> list[tuple[str, bool]]:
        name = rest[0]
        steps: list[tuple[str, bool]] = []
        found = source.definitions.get(name)
        if found is not None:
            members = source.members(name)
            names = members if methods_only else [name, *members]
            steps += [step for item in names for step in self._take(module, source, item)]
            if methods_only and not found.is_function:
                steps += [(dotted, True) for dotted in (*found.references, *found.annotations)]
        if name in source.imports:
            steps.append((".".join([source.imports[name], *rest[1:]]), methods_only))
        if not steps and found is None:
            steps += [(".".join([star, *rest]), methods_only) for star in source.stars]
            if "__getattr__" in source.definitions:
                steps.append((module, False))
        return steps

    def _take(self, module: str, source: Source, item: str) -> list[tuple[str, bool]]:
        definition = source.definitions[item]
        self.reached[f"{module}.{item}"] = definition.digest
        return [(name, False) for name in definition.references] + [(name, True) for name in definition.annotations]
