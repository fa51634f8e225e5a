from dataclasses import dataclass

import pytest

from pipelines.dsl import Artifact, BuildError, CanonicalError, StageContext, pipeline, stage
from pipelines.dsl.graph import content_key


@dataclass(frozen=True)
class Number(Artifact):
    value: int


@stage()
def one(ctx: StageContext, value: int) -> Number:
    return Number.of(value=value)


@stage()
def add(ctx: StageContext, left: Number, right: Number) -> Number:
    return Number.of(value=left.value + right.value)


@stage()
def loose(ctx: StageContext, anything: object) -> Number:
    return Number.of(value=0)


@pipeline
def total(count: int) -> Number:
    """Add numbers."""
    result = one(0)
    for value in range(1, count):
        result = add(result, one(value))
    return result


@pipeline
def twice(count: int) -> Number:
    return add(total(count), total(count))


def test_identical_calls_are_one_node() -> None:
    graph = twice.build(3)
    assert [node.name for node in graph.nodes] == ["one", "one-2", "add", "one-3", "add-2", "add-3"]
    assert graph.result.upstream == ("add-2",)
    assert [parameter for parameter, _ in graph.result.inputs] == ["left", "right"]


def test_keys_follow_parameters_and_inputs() -> None:
    keys = {node.name: node.key for node in total.build(3).nodes}
    again = {node.name: node.key for node in total.build(3).nodes}
    assert keys == again
    assert len(set(keys.values())) == len(keys)


def test_ancestors_are_everything_upstream() -> None:
    graph = total.build(3)
    by_name = {node.name: node for node in graph.nodes}
    assert [node.name for node in graph.ancestors(by_name["add"])] == ["one", "one-2"]
    assert [node.name for node in graph.ancestors(graph.result)] == ["one", "one-2", "add", "one-3"]


def test_content_key_depends_on_contents_only() -> None:
    graph = total.build(2)
    key = content_key(graph.result, lambda node: "same")
    assert key == content_key(graph.result, lambda node: "same")
    assert key != content_key(graph.result, lambda node: node.key)


def test_pictures_of_the_graph() -> None:
    graph = total.build(2)
    assert graph.text().splitlines() == [
        "one    <- (nothing)",
        "one-2  <- (nothing)",
        "add    <- one, one-2",
    ]
    assert graph.mermaid().splitlines()[0] == "flowchart LR"
    assert "  n0 --> n2" in graph.mermaid()


def test_misuse_says_the_mend() -> None:
    with pytest.raises(BuildError, match=r"total\.build\(recipe\)"):
        total(3)
    with pytest.raises(BuildError, match="returned int; return the result of one stage call"):
        pipeline(lambda recipe: 3).build(None)  # type: ignore[arg-type, return-value, type-var]
    with pytest.raises(CanonicalError, match=r"loose\.parameters\.anything\.deep"):
        pipeline(lambda recipe: loose({"deep": {1, 2}})).build(None)


def test_a_thousand_nodes_build_fast() -> None:
    assert len(total.build(500).nodes) == 999
