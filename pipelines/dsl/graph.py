"""The word `@pipeline`: a function that builds a graph by calling stages."""

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from pipelines.dsl import canonical
from pipelines.dsl.artifact import Artifact
from pipelines.dsl.errors import BuildError
from pipelines.dsl.stage import Stage, fits, is_artifact

R = TypeVar("R")
A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Node:
    """One call of a stage.

    Attributes:
        name: display name, unique in its graph.
        stage: the stage.
        arguments: parameter name to value; a `Handle` stands where an artifact will be.
        key: identity, 40 hexadecimal digits: the stage's name, its parameters and the keys of its inputs.
        identity: readable picture of what the key is made of.
        inputs: `(parameter, node)` for every artifact it takes, in parameter order (`parts[0]` for tuples).
    """

    name: str
    stage: Stage[..., Any]
    arguments: Mapping[str, object]
    key: str
    identity: Mapping[str, object]
    inputs: tuple[tuple[str, "Node"], ...]

    @property
    def upstream(self) -> tuple[str, ...]:
        """Names of the nodes it takes artifacts from, in parameter order, each once."""
        return tuple(dict.fromkeys(node.name for _, node in self.inputs))


class Handle:
    """Stands for the artifact of a node while a pipeline is built."""

    def __init__(self, node: Node) -> None:
        """Stand for the artifact of `node`."""
        self._node = node

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        label = self.__dict__["_node"].name
        raise BuildError(
            f"`{name}` of stage {label!r} is known only after it ran; pass the artifact to a stage and read it there"
        )


@dataclass(frozen=True)
class _Reference:
    key: str

    def canonical_form(self) -> str:
        return self.key


@dataclass(frozen=True)
class Graph:
    """A built pipeline.

    Attributes:
        pipeline: name of the pipeline function.
        nodes: every stage call once, each after its inputs.
        result: the node that the pipeline returned.
    """

    pipeline: str
    nodes: tuple[Node, ...]
    result: Node

    def ancestors(self, node: Node) -> tuple[Node, ...]:
        """Return all nodes upstream of one, in graph order."""
        reached: set[str] = set()
        for candidate in reversed(self.nodes):
            if candidate.name == node.name or candidate.name in reached:
                reached.update(candidate.upstream)
        return tuple(n for n in self.nodes if n.name in reached)

    def text(self) -> str:
        """Return the graph as lines of text: each stage and what it takes."""
        width = max(len(node.name) for node in self.nodes)
        return "\n".join(f"{n.name:<{width}}  <- {', '.join(n.upstream) or '(nothing)'}" for n in self.nodes)

    def mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart."""
        index = {node.name: f"n{i}" for i, node in enumerate(self.nodes)}
        lines = ["flowchart LR", *(f'  {index[n.name]}["{n.name}"]' for n in self.nodes)]
        lines += [f"  {index[up]} --> {index[n.name]}" for n in self.nodes for up in n.upstream]
        return "\n".join(lines)


@dataclass
class _Builder:
    nodes: dict[str, Node] = field(default_factory=dict[str, Node])
    names: set[str] = field(default_factory=set[str])

    def free_name(self, label: str) -> str:
        name, count = label, 1
        while name in self.names:
            count += 1
            name = f"{label}-{count}"
        self.names.add(name)
        return name


_building: ContextVar[_Builder | None] = ContextVar("building", default=None)


class Pipeline(Generic[R, A]):
    """A declared pipeline. `build(recipe)` makes its graph; inside another pipeline it may be called like a stage."""

    def __init__(self, function: Callable[[R], A]) -> None:
        """Take the function that calls stages."""
        self.function = function
        self.name = self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__

    def __call__(self, recipe: R) -> A:
        """Add this pipeline's stages to the one that is being built.

        Raises:
            BuildError: outside a pipeline.
        """
        if _building.get() is None:
            raise BuildError(
                f"pipeline {self.name} was called outside a pipeline; use {self.name}.build(recipe), or main()"
            )
        return self.function(recipe)

    def build(self, recipe: R) -> Graph:
        """Call the function once and return the graph; nothing runs, and neither Ray nor torch is imported.

        Raises:
            BuildError: a stage is called wrongly, or the function does not return the result of a stage.
            CanonicalError: a parameter cannot be part of a key.
        """
        builder = _Builder()
        token = _building.set(builder)
        try:
            result: object = self.function(recipe)
        finally:
            _building.reset(token)
        if not isinstance(result, Handle):
            raise BuildError(
                f"pipeline {self.name} returned {type(result).__name__}; return the result of one stage call"
            )
        return Graph(self.name, tuple(builder.nodes.values()), node_of(result))


def pipeline(function: Callable[[R], A]) -> Pipeline[R, A]:
    """Declare a pipeline: a function of one recipe that calls stages and returns the result of one of them."""
    return Pipeline(function)


def node_of(handle: Handle) -> Node:
    """Return the node that a handle stands for."""
    return cast(Node, handle.__dict__["_node"])


def add_node(stage: Stage[..., Any], arguments: Mapping[str, object]) -> Handle:
    """Add a stage call to the graph being built; an identical call gives the node that is already there.

    Raises:
        BuildError: outside a pipeline, or an argument does not fit its annotation.
        CanonicalError: an argument has no canonical form.
    """
    builder = _building.get()
    if builder is None:
        raise BuildError(
            f"stage {stage.label} was called outside a pipeline; call it inside an @pipeline function, or its body "
            f"directly with a context: {stage.name}.function(ctx, ...)"
        )
    normal = {name: _normal(stage.hints[name], value) for name, value in arguments.items()}
    for name, value in normal.items():
        _check(stage, name, value)
    inputs = tuple(pair for name, value in normal.items() for pair in _inputs(name, value))
    keyed = {name: _map_handles(value, lambda node: _Reference(node.key)) for name, value in normal.items()}
    key = canonical.key_of({"stage": stage.name, "parameters": keyed}, stage.label)
    if key not in builder.nodes:
        identity = {
            name: canonical.readable(_map_handles(value, lambda node: f"artifact {node.name}"))
            for name, value in normal.items()
        }
        builder.nodes[key] = Node(builder.free_name(stage.label), stage, normal, key, identity, inputs)
    return Handle(builder.nodes[key])


def resolve(node: Node, artifact: Callable[[Node], Artifact]) -> dict[str, object]:
    """Return a node's arguments with every handle replaced by its artifact."""
    return {name: _map_handles(value, artifact) for name, value in node.arguments.items()}


def _normal(annotation: object, value: object) -> object:
    """An int given for a float parameter becomes a float, so that 1 and 1.0 are one identity there."""
    return float(value) if annotation is float and type(value) is int else value


def _check(stage: Stage[..., Any], name: str, value: object) -> None:
    wanted = stage.hints[name]
    if fits(wanted, value, _artifact_class):
        return
    given = f"the artifact of stage {node_of(value).name}" if isinstance(value, Handle) else type(value).__name__
    shown = wanted.__name__ if isinstance(wanted, type) else str(wanted)
    hint = "; call the stage that makes it and pass the result" if is_artifact(wanted) else ""
    raise BuildError(f"stage {stage.label}: parameter {name!r} wants {shown}, but was given {given}{hint}")


def _artifact_class(value: object) -> type | None:
    return node_of(value).stage.output if isinstance(value, Handle) else None


def _inputs(name: str, value: object) -> Iterator[tuple[str, Node]]:
    if isinstance(value, Handle):
        yield name, node_of(value)
    elif isinstance(value, tuple | list):
        for i, item in enumerate(cast(tuple[object, ...], value)):
            yield from _inputs(f"{name}[{i}]", item)


def _map_handles(value: object, replace: Callable[[Node], object]) -> object:
    if isinstance(value, Handle):
        return replace(node_of(value))
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_map_handles(item, replace) for item in cast(tuple[object, ...], value))
    if isinstance(value, list):
        return [_map_handles(item, replace) for item in cast(list[object], value)]
    return value


def content_key(node: Node, content: Callable[[Node], str]) -> str:
    """Return the identity of a node with the contents of its inputs in place of their keys."""
    keyed = {name: _map_handles(value, lambda n: _Reference(content(n))) for name, value in node.arguments.items()}
    return canonical.key_of({"stage": node.stage.name, "contents": keyed}, node.name)
