from dataclasses import dataclass
from typing import Any

import pytest

from pipelines.dsl import Artifact, BuildError, Resources, StageContext, pipeline, stage


@dataclass(frozen=True)
class Rows(Artifact):
    count: int


@dataclass(frozen=True)
class FewRows(Rows):
    pass


@dataclass(frozen=True)
class Model(Artifact):
    loss: float


@stage()
def load(ctx: StageContext, source: str) -> Rows:
    """Load rows."""
    return Rows.of(count=len(source))


@stage()
def load_few(ctx: StageContext) -> FewRows:
    return FewRows.of(count=1)


@stage(resources=Resources(cpus=0), claims=lambda execution: Resources(cpus=execution * 0.5, gpus=1))
def train(ctx: StageContext, rows: Rows, rate: float = 0.1, base: Model | None = None) -> Model:
    return Model.of(loss=rate)


@stage()
def join(ctx: StageContext, parts: tuple[Rows, ...], best: Model | Rows) -> Rows:
    return parts[0]


def built(function: Any) -> Any:
    return pipeline(lambda _: function()).build(None)


def test_a_call_adds_a_node() -> None:
    graph = built(lambda: train(load("abc")))
    assert [node.name for node in graph.nodes] == ["load", "train"]
    assert graph.result.upstream == ("load",)
    assert graph.result.identity == {"rows": "artifact load", "rate": 0.1, "base": None}


def test_subclasses_unions_optionals_and_tuples_are_taken() -> None:
    graph = built(lambda: join((load("a"), load_few()), train(load_few(), base=train(load("a")))))
    assert graph.result.upstream == ("load", "load_few", "train-2")
    assert [parameter for parameter, _ in graph.result.inputs] == ["parts[0]", "parts[1]", "best"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: load(3), "parameter 'source' wants str, but was given int"),
        (lambda: train("rows"), "parameter 'rows' wants Rows, but was given str; call the stage that makes it"),
        (lambda: train(train(load("a"))), "the artifact of stage train"),
        (lambda: train(load("a"), rate="fast"), "parameter 'rate' wants float"),
        (lambda: train(load("a"), rate=True), "parameter 'rate' wants float"),
        (lambda: join([load("a")], load("a")), "parameter 'parts'"),
        (lambda: train(), "missing a required argument: 'rows'"),
        (lambda: train(load("a"), speed=1), "unexpected keyword argument 'speed'"),
        (lambda: load(Rows.of(count=1)), "parameter 'source'"),
    ],
)
def test_wrong_calls_raise_while_building(call: Any, says: str) -> None:
    with pytest.raises(BuildError, match=says.replace("(", r"\(")):
        built(call)


def test_a_value_of_an_artifact_is_not_known_while_building() -> None:
    with pytest.raises(BuildError, match="`count` of stage 'load' is known only after it ran"):
        built(lambda: load("x" * load("a").count))


def test_a_call_outside_a_pipeline_says_how() -> None:
    with pytest.raises(BuildError, match=r"load\.function\(ctx"):
        load("abc")


def test_declarations_that_cannot_work_are_refused_with_the_mend() -> None:
    with pytest.raises(BuildError, match="`ctx: StageContext`"):

        @stage()
        def no_context(source: str) -> Rows: ...  # type: ignore[empty-body]

    with pytest.raises(BuildError, match="'source' has no annotation"):

        @stage()
        def untyped(ctx: StageContext, source) -> Rows: ...  # type: ignore[no-untyped-def]  # noqa: ANN001

    with pytest.raises(BuildError, match="must return an Artifact"):

        @stage()
        def plain(ctx: StageContext, source: str) -> int: ...  # type: ignore[empty-body, type-var]

    with pytest.raises(BuildError, match="return annotation is missing"):

        @stage()
        def silent(ctx: StageContext, source: str): ...  # type: ignore[no-untyped-def, type-var]  # noqa: ANN202

    with pytest.raises(BuildError, match="declare every parameter by name"):

        @stage()
        def loose(ctx: StageContext, *sources: str) -> Rows: ...  # type: ignore[empty-body]


def test_names_do_not_enter_keys() -> None:
    graph = built(lambda: join((load.named("first")("a"),), load("b")))
    assert [node.name for node in graph.nodes] == ["first", "load", "join"]
    plain = built(lambda: join((load("a"),), load("b")))
    assert graph.result.key == plain.result.key
    assert load.label == "load"


def test_an_int_in_a_float_parameter_is_the_same_identity() -> None:
    assert built(lambda: train(load("a"), 1)).result.key == built(lambda: train(load("a"), 1.0)).result.key


def test_claims_are_added_from_the_context() -> None:
    assert train.total(4) == Resources(cpus=2.0, gpus=1)
    assert load.total(4) == Resources(cpus=1)
