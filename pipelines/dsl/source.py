"""One Python file taken apart, without importing it: its definitions, what each refers to, and a digest of each.

Comments, formatting, docstrings and annotations inside functions do not enter a digest. Names are over-approximated: a
local variable called like a module-level function counts as a reference to it, which can only cause a needless run.
"""

import ast
import copy
from collections.abc import Callable, Iterable, Iterator

import msgspec

from pipelines.dsl import canonical
from pipelines.dsl.errors import FingerprintError

DIGEST_BYTES = 16
FORMAT = 1
"""Counts changes of what this module extracts; part of the name of the cache."""

SIDE_EFFECTS = "<module>"
"""Pseudo-definition of the statements that bind no name (`TABLE.update(...)`, `os.environ[...] = ...`)."""

TOUCH = "!"
"""Prefix of a reference to a module that is only imported: its side effects count, its definitions do not."""

UNKNOWN = "?"
"""Prefix of a place that imports a module whose name cannot be known before the run."""

BELOW = "*"
"""Last part of a reference to every module below a package (`import_module(f"reca.models.{name}")`)."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Import = ast.Import | ast.ImportFrom
Compound = ast.If | ast.Try | ast.With | ast.For | ast.While


class Definition(msgspec.Struct, frozen=True, array_like=True):
    """A function, a class without its methods, a method, or the assignments to a name.

    Attributes:
        digest: blake2b-128 of its normalised source.
        references: dotted names that it uses.
        annotations: dotted names in its annotations and, for a class, its bases: methods of these may be called on
            objects that it is given.
        is_function: whether it is a function or method.
    """

    digest: str
    references: tuple[str, ...]
    annotations: tuple[str, ...]
    is_function: bool


class Source(msgspec.Struct, frozen=True, array_like=True):
    """A parsed module.

    Attributes:
        definitions: name to definition; methods as `Class.method`.
        imports: name bound by an import at module level to its dotted target.
        stars: modules imported with `*`.
        touched: modules (or names in them) that importing this one loads.
    """

    definitions: dict[str, Definition]
    imports: dict[str, str]
    stars: tuple[str, ...]
    touched: tuple[str, ...]

    def members(self, name: str) -> list[str]:
        """Return the methods of a class, as `Class.method`."""
        return [item for item in self.definitions if item.startswith(f"{name}.")]


def parse(text: str, module: str, is_package: bool, ignored: str) -> Source:
    """Take a module apart.

    Args:
        text: its source.
        module: its dotted name.
        is_package: whether it is an `__init__.py`.
        ignored: package whose decorators are dropped (the pipeline words: resources and retries are not results).

    Raises:
        FingerprintError: the source does not parse.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise FingerprintError(f"{module} does not parse: {error}; mend the file") from error
    names = _Names(module, module if is_package else module.rpartition(".")[0])
    reader = _Reader(names)
    reader.read(tree.body)
    definitions = {name: _define(group, names, ignored) for name, group in reader.groups.items()}
    return Source(definitions, names.imports, tuple(names.stars), tuple(names.touched))


class _Names:
    """What the names of a module mean."""

    def __init__(self, module: str, package: str) -> None:
        self.module = module
        self.package = package
        self.imports: dict[str, str] = {}
        self.stars: list[str] = []
        self.touched: list[str] = []

    def bindings(self, node: Import) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (first, first)
            return
        base = self.absolute(node.module or "", node.level)
        for alias in node.names:
            if alias.name == "*":
                self.stars.append(base)
            else:
                yield alias.asname or alias.name, f"{base}.{alias.name}"

    def targets(self, node: Import) -> list[str]:
        """What an import loads, whatever it binds: `import a.b` loads `a.b` and binds `a`."""
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        return [f"{self.absolute(node.module or '', node.level)}.{alias.name}" for alias in node.names]

    def absolute(self, module: str, level: int, package: str = "") -> str:
        if level == 0:
            return module
        parts = (package or self.package).split(".")
        parts = parts[: len(parts) - (level - 1)]
        return ".".join([*parts, *([module] if module else [])])

    def expand(self, dotted: str, local: dict[str, str]) -> str:
        first, _, rest = dotted.partition(".")
        target = local.get(first, f"{self.module}.{first}")
        return f"{target}.{rest}" if rest else target


class _Reader:
    """Collects the statements of a module under the names they bind."""

    def __init__(self, names: _Names) -> None:
        self.names = names
        self.groups: dict[str, list[ast.AST]] = {}

    def read(self, body: Iterable[ast.stmt]) -> None:
        for statement in body:
            match statement:
                case ast.Import() | ast.ImportFrom():
                    self.names.imports.update(self.names.bindings(statement))
                    self.names.touched += self.names.targets(statement)
                case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                    self.read(statement.orelse)
                case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                    self.read([*statement.body, *statement.orelse])
                case ast.If() | ast.Try() | ast.With() | ast.For() | ast.While():
                    self._read_compound(statement)
                case ast.ClassDef():
                    self._read_class(statement)
                case ast.Expr(value=ast.Constant()) | ast.Pass():
                    pass
                case _:
                    for name in _bound_names(statement) or [SIDE_EFFECTS]:
                        self._add(name, statement)

    def _read_compound(self, statement: Compound) -> None:
        """What is bound under a condition depends on the whole statement."""
        before = {name: len(group) for name, group in self.groups.items()}
        blocks = [getattr(statement, block, []) for block in ("body", "orelse", "finalbody")]
        blocks += [handler.body for handler in getattr(statement, "handlers", [])]
        for block in blocks:
            self.read(block)
        changed = [name for name, group in self.groups.items() if len(group) != before.get(name, 0)]
        for name in changed:
            self._add(name, statement)

    def _read_class(self, node: ast.ClassDef) -> None:
        methods = [item for item in node.body if isinstance(item, Function)]
        rest = [item for item in node.body if not isinstance(item, Function)]
        header = copy.copy(node)
        header.body = rest or [ast.Pass()]
        self._add(node.name, header)
        for method in methods:
            self._add(f"{node.name}.{method.name}", method)

    def _add(self, name: str, statement: ast.AST) -> None:
        self.groups.setdefault(name, []).append(statement)


def _define(group: list[ast.AST], names: _Names, ignored: str) -> Definition:
    texts: list[str] = []
    references: dict[str, None] = {}
    annotations: dict[str, None] = {}
    for statement in group:
        local = dict(names.imports)
        for node in ast.walk(statement):
            if isinstance(node, Import):
                local.update(names.bindings(node))
                references.update(dict.fromkeys(TOUCH + target for target in names.targets(node)))

        def expand(dotted: str, local: dict[str, str] = local) -> str:
            return names.expand(dotted, local)

        references.update(dict.fromkeys(_dynamic_imports(statement, names, expand)))
        clean, removed = _strip(statement, lambda dotted, e=expand: (e(dotted) + ".").startswith(ignored + "."))
        texts.append(ast.unparse(clean))
        references.update(dict.fromkeys(map(expand, _dotted_names(clean))))
        annotations.update(dict.fromkeys(expand(d) for part in removed for d in _dotted_names(part)))
    digest = canonical.digest("\n".join(texts).encode(), DIGEST_BYTES)
    return Definition(digest, tuple(references), tuple(annotations), all(isinstance(node, Function) for node in group))


def _strip(statement: ast.AST, is_ignored: Callable[[str], bool]) -> tuple[ast.AST, list[ast.expr]]:
    """Remove what cannot change a result; return the rest, and what annotations and bases said."""
    clean = copy.deepcopy(statement)
    said: list[ast.expr] = list(clean.bases) if isinstance(clean, ast.ClassDef) else []
    for node in ast.walk(clean):
        if isinstance(node, Function):
            node.decorator_list = [item for item in node.decorator_list if not is_ignored(_decorator_name(item))]
            said += [node.returns] if node.returns else []
            node.returns = None
            for inner in ast.walk(node):
                if isinstance(inner, ast.AnnAssign):
                    said.append(inner.annotation)
                    inner.annotation = ast.Constant(None)
        elif isinstance(node, ast.AnnAssign):
            said.append(node.annotation)
        elif isinstance(node, ast.arg) and node.annotation:
            said.append(node.annotation)
            node.annotation = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.body = [item for item in node.body if not _is_docstring(item)] or [ast.Pass()]
    return clean, said


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _decorator_name(decorator: ast.expr) -> str:
    return next(_dotted_names(decorator.func if isinstance(decorator, ast.Call) else decorator), "")


def _dotted_names(node: ast.AST) -> Iterator[str]:
    """Yield every name, attribute chains as long as they go, also inside annotations written as text."""
    if isinstance(node, ast.Name | ast.Attribute):
        chain = _chain(node)
        if chain:
            yield chain
            return
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.replace(".", "").isidentifier():
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from _dotted_names(child)


def _chain(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = _chain(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _bound_names(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            names = [_target_names(target) for target in targets]
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            names = [_target_names(target)]
        case _:
            return []
    return [] if any(not group for group in names) else [name for group in names for name in group]


def _target_names(target: ast.expr) -> list[str]:
    """The names a target binds; none when it changes an object (`TABLE["a"] = 1`), which is a side effect."""
    if isinstance(target, ast.Tuple | ast.List):
        groups = [_target_names(item) for item in target.elts]
        return [name for group in groups for name in group] if all(groups) else []
    if isinstance(target, ast.Starred):
        return _target_names(target.value)
    return [target.id] if isinstance(target, ast.Name) else []


def _dynamic_imports(statement: ast.AST, names: _Names, expand: Callable[[str], str]) -> Iterator[str]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = _chain(node.func)
            if called == "__import__" or (called and expand(called) == "importlib.import_module"):
                yield _import_target(node, names)


def _import_target(node: ast.Call, names: _Names) -> str:
    package = ""
    for given in [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "package")]:
        package = given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else ""
    match node.args[0] if node.args else None:
        case ast.Constant(value=str(name)):
            level = len(name) - len(name.lstrip("."))
            return names.absolute(name.lstrip("."), level, package)
        case ast.JoinedStr(values=[ast.Constant(value=str(prefix)), *_]) if "." in prefix:
            level = len(prefix) - len(prefix.lstrip("."))
            base = names.absolute(prefix.lstrip(".").rpartition(".")[0], level, package)
            return f"{base}.{BELOW}"
        case _:
            return f"{UNKNOWN}{names.module} line {node.lineno}: `{ast.unparse(node)}`"
