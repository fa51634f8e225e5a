from dataclasses import replace
from pathlib import Path

import pytest
from small_pipeline import Data, Recipe, make, small

from pipelines.dsl import Graph, Store, make_plan, planner
from pipelines.dsl.plan import Planner, Policy


class Shop:
    """A store with everything made once for the default recipe."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(str(folder / "store"))
        self.graph = small.build(Recipe())
        self.made = make(self.graph, self.store, self.planner(self.graph))

    def planner(self, graph: Graph, policy: Policy = "rerun", **code: str) -> Planner:
        """A planner that believes that the named stages' bodies have another digest."""
        real = planner(graph, self.store, policy)
        changed = {
            name: {**found, f"small_pipeline.{name}": code.get(name, found[f"small_pipeline.{name}"])}
            for name, found in real.fingerprints.items()
        }
        return replace(real, fingerprints=changed)

    def plan(self, recipe: Recipe | None = None, policy: Policy = "rerun", **code: str) -> dict[str, tuple[str, str]]:
        graph = small.build(recipe or Recipe())
        verdicts = make_plan(graph, self.planner(graph, policy, **code)).verdicts
        return {name: (verdict.decision, verdict.reason) for name, verdict in verdicts.items()}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    graph = small.build(Recipe())
    plan = make_plan(graph, planner(graph, Store(str(tmp_path / "store")), "rerun"))
    assert [v.reason for v in plan.verdicts.values()] == ["no artifact of this stage yet"] * 2
    assert not (tmp_path / "store").exists()


def test_all_is_reused(shop: Shop) -> None:
    assert shop.plan() == dict.fromkeys(("write", "measure"), ("reuse", "same parameters, inputs and code"))


def test_the_changed_field_is_named(shop: Shop) -> None:
    assert shop.plan(Recipe(factor=3.0)) == {
        "write": ("reuse", "same parameters, inputs and code"),
        "measure": ("run", "factor 2.0 -> 3.0"),
    }
    assert shop.plan(Recipe(data=Data(count=5))) == {
        "write": ("run", "data.count 4 -> 5"),
        "measure": ("run", "input text is another artifact of write"),
    }


def test_the_changed_definition_is_named_and_dependants_wait(shop: Shop) -> None:
    assert shop.plan(write="0" * 32) == {
        "write": ("run", "code changed: small_pipeline.write"),
        "measure": ("check", "reused if write comes out the same again"),
    }


@pytest.mark.parametrize(("policy", "did"), [("accept", "new code recorded"), ("pin", "record left")])
def test_policies_for_code_alone(shop: Shop, policy: Policy, did: str) -> None:
    plan = shop.plan(policy=policy, write="0" * 32)
    assert plan["write"] == ("reuse", f"code changed (small_pipeline.write), but --on-code-change {policy}: {did}")
    assert plan["measure"][0] == "reuse"


def test_other_content_of_an_input_runs_dependants(shop: Shop) -> None:
    decider = shop.planner(shop.graph)
    contents = {"write": "another content"}
    verdict = decider.decide(shop.graph.result, contents, frozenset())
    assert (verdict.decision, verdict.reason) == ("run", "input has other content: text (write)")


def test_same_content_under_another_key_is_adopted(shop: Shop) -> None:
    """Another seed gives the same bytes: `measure` need not run again."""
    graph = small.build(Recipe(data=Data(seed=2)))
    made = make(graph, shop.store, shop.planner(graph), only="write")
    verdict = shop.planner(graph).decide(graph.result, {"write": made["write"].content}, frozenset())
    assert (verdict.decision, verdict.adopt) == ("reuse", True)
    assert "identical" in verdict.reason


def test_altered_files_and_manifests_are_named(shop: Shop) -> None:
    part = Path(shop.store.uri, shop.made["write"].path, "part.txt")
    part.write_text("shorter"[:3])
    assert shop.plan()["write"] == ("run", f"{part} was altered (3 bytes, not 4); made again")
    part.write_text("yyyy")
    assert shop.plan()["write"] == ("run", f"{part} was altered (same size, other content); made again")
    part.unlink()
    assert shop.plan()["write"] == ("run", f"{part} is missing; made again")
    part.write_text("xxxx")
    assert shop.plan()["write"][0] == "reuse", "the same bytes at another time are the same artifact"
    manifest = Path(shop.store.uri, "manifests", "measure", f"{shop.graph.result.key}.json")
    manifest.write_text(manifest.read_text().replace('"length": 8', '"length": 9'))
    assert shop.plan()["measure"] == (
        "run",
        f"the manifest {manifest} was altered by hand (its own digest does not fit); made again",
    )
    manifest.write_text("{")
    decision, reason = shop.plan()["measure"]
    assert decision == "run"
    assert "cannot be read" in reason


def test_a_lost_code_record_runs_again(shop: Shop) -> None:
    for file in Path(shop.store.uri, "code").iterdir():
        file.unlink()
    assert shop.plan(write="0" * 32)["write"] == (
        "run",
        "code changed: the record of the code it was made with is gone",
    )


def test_planning_writes_nothing(shop: Shop, tmp_path: Path) -> None:
    before = sorted((tmp_path / "store").rglob("*"))
    shop.plan(Recipe(factor=9.0), policy="accept", write="0" * 32)
    assert sorted((tmp_path / "store").rglob("*")) == before
