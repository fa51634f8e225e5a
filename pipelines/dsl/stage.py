"""The word `@stage`: a typed function that makes one artifact from declared parameters and other artifacts."""

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast

from pipelines.dsl.artifact import Artifact
from pipelines.dsl.canonical import module_name
from pipelines.dsl.errors import BuildError
from pipelines.dsl.runview import RunView

P = ParamSpec("P")
A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Resources:
    """What a stage reserves in the cluster; context, never identity.

    Attributes:
        cpus: logical CPUs; 0 for a body that only drives Ray Train, Ray Data or Ray Tune.
        gpus: GPUs.
        memory_gb: memory in GiB; 0 reserves none.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 0.0


Claims = Callable[[Any], Resources]
"""From the execution context to what the body itself reserves through Ray Train or Ray Data, beside its own task."""


@dataclass(frozen=True)
class StageContext:
    """What a stage body is given as its first argument.

    Attributes:
        name: display name of the stage in the graph.
        output: local folder to write the artifact's files into.
        work_uri: folder in the store (absolute path or fsspec URI) that is kept across attempts until the stage
            succeeds: checkpoints of a long stage go here. It may not exist yet.
        execution: the context of the run (workers, devices); never part of a key.
        run: the stages upstream of this one with decisions, reasons and costs.
        report: where `progress` lines go.
    """

    name: str
    output: Path
    work_uri: str
    execution: Any
    run: RunView
    report: Callable[[str], None]

    def progress(self, text: str, **fields: object) -> None:
        """Show one calm line: `text`, then `name=value` for each field. May be called often and from any Ray worker."""
        words = [text, *(f"{name}={_show(value)}" for name, value in fields.items())]
        self.report(" ".join(word for word in words if word))


def _show(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Stage(Generic[P, A]):
    """A declared stage. Calling it inside a pipeline adds a node to the graph; nothing runs.

    Attributes:
        name: name of the function; part of every key.
        label: display name in the graph.
        function: the body.
        output: artifact class that the body returns.
        hints: parameter name to annotation, without the context.
        resources: reserved for the stage's own task.
        claims: reserved by the body itself, from the context; None for none.
        retries: further attempts after an error that may pass (never after a ValueError, which is bad input).
    """

    def __init__(
        self,
        function: Callable[Concatenate[StageContext, P], A],
        resources: Resources,
        claims: Claims | None,
        retries: int,
    ) -> None:
        """Check the declaration; see [`stage`][pipelines.dsl.stage.stage]."""
        self.function = function
        self.name = self.label = function.__name__
        self.resources = resources
        self.claims = claims
        self.retries = retries
        self.signature, self.hints, self.output = _inspect(function)
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__module__ = function.__module__
        self.__qualname__ = function.__qualname__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> A:
        """Add a call of this stage to the pipeline that is being built; the result stands for the artifact to come.

        Raises:
            BuildError: outside a pipeline, or an argument does not fit its annotation.
        """
        from pipelines.dsl.graph import add_node

        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BuildError(f"stage {self.label} cannot be called so: {error}; it takes {self.signature}") from error
        bound.apply_defaults()
        return cast(A, add_node(self, bound.arguments))

    def named(self, label: str) -> Self:
        """Return the same stage under another display name; keys do not change."""
        other = object.__new__(type(self))
        other.__dict__ = {**self.__dict__, "label": label}
        return other

    def total(self, execution: object) -> Resources:
        """Return all that a run of this stage reserves: its own task and what its body claims."""
        more = self.claims(execution) if self.claims else Resources(cpus=0)
        own = self.resources
        return Resources(own.cpus + more.cpus, own.gpus + more.gpus, own.memory_gb + more.memory_gb)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel by reference where a worker can import the module, else by value (a stage made inside a function)."""
        if "<locals>" in self.__qualname__:
            return _rebuild, (self.function, self.resources, self.retries, self.label)
        return _import, (module_name(self.__module__), self.__qualname__, self.label)


def stage(
    *, resources: Resources = Resources(), claims: Claims | None = None, retries: int = 1
) -> Callable[[Callable[Concatenate[StageContext, P], A]], Stage[P, A]]:
    """Declare a stage.

    The function's first parameter is `ctx: StageContext`. Every other parameter is annotated: an `Artifact` subclass
    (or a union, an optional, or `tuple[X, ...]` of them) takes the result of another stage; anything else is a declared
    parameter and part of the key. The return annotation is an `Artifact` subclass.

    Args:
        resources: what the stage's own task reserves.
        claims: what the body reserves itself through Ray Train or Ray Data, as a function of the context; counted
            before the start, so that a run that can never fit is refused.
        retries: further attempts after an error that is not bad input.

    Raises:
        BuildError: the declaration cannot work; the message says how to mend it.
    """

    def declare(function: Callable[Concatenate[StageContext, P], A]) -> Stage[P, A]:
        return Stage(function, resources, claims, retries)

    return declare


def is_artifact(annotation: object) -> bool:
    """Tell whether an annotation is an `Artifact` subclass."""
    return isinstance(annotation, type) and issubclass(annotation, Artifact)


def fits(annotation: object, value: object, kind: Callable[[object], type | None]) -> bool:
    """Tell whether a value fits an annotation, as far as classes can tell.

    Args:
        annotation: a class, a union, a Literal, `tuple[X, ...]` or another generic (only its origin is checked).
        value: the argument.
        kind: maps a value that stands for an artifact to its class, others to None.
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or isinstance(annotation, TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(arg, value, kind) for arg in args)
    if origin is typing.Literal:
        return value in args
    if origin is typing.Annotated:
        return fits(args[0], value, kind)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        items: tuple[object, ...] = value
        wanted = args[:1] * len(items) if len(args) == 2 and args[1] is Ellipsis else args
        return len(wanted) == len(items) and all(fits(a, v, kind) for a, v in zip(wanted, items, strict=True))
    target = origin or (type(None) if annotation is None else annotation)
    found = kind(value)
    if found is not None:
        return isinstance(target, type) and issubclass(found, target)
    if target is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, target) if isinstance(target, type) else True


def _inspect(function: Callable[..., Any]) -> tuple[inspect.Signature, Mapping[str, object], type[Any]]:
    where = f"stage {function.__name__} ({function.__module__})"
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise BuildError(
            f"{where} has an annotation that is not known at run time: {error}; import it at module level, "
            "not under TYPE_CHECKING"
        ) from error
    signature = inspect.signature(function)
    names = list(signature.parameters)
    if not names or hints.get(names[0]) is not StageContext:
        raise BuildError(f"{where} must take `ctx: StageContext` as its first parameter; add it")
    for name, parameter in list(signature.parameters.items())[1:]:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise BuildError(f"{where} takes *{name}; declare every parameter by name, or a tuple[...] parameter")
        if name not in hints:
            raise BuildError(f"{where}: parameter {name!r} has no annotation; write its type ({name}: ...)")
    if not is_artifact(hints.get("return")):
        raise BuildError(
            f"{where} must return an Artifact, but its return annotation is {hints.get('return', 'missing')}; declare "
            "`@dataclass(frozen=True) class MyResult(Artifact)` and annotate `-> MyResult`"
        )
    parameters = [signature.parameters[name] for name in names[1:]]
    declared = {name: hints[name] for name in names[1:]}
    return signature.replace(parameters=parameters), declared, cast(type[Any], hints["return"])


def _rebuild(function: Callable[..., Any], resources: Resources, retries: int, label: str) -> Stage[..., Any]:
    return Stage(function, resources, None, retries).named(label)


def _import(module: str, qualname: str, label: str) -> Stage[..., Any]:
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return cast("Stage[..., Any]", found).named(label)
