"""A trial shares its stages with the main job, and tells divergence from other failures."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.dsl import Graph, RunError
from pipelines.reca import reca
from pipelines.recipes import smoke
from reca.config import ExecutionConfig, RecaRecipe
from tuning import trial as module
from tuning.search import DivergedError
from tuning.space import apply
from tuning.trial import PipelineObjective, shared, trial


@pytest.fixture
def recipe(tmp_path: Path) -> RecaRecipe:
    """The smoke recipe on stand-ins for the checkpoint and the scorer: only their content enters the keys."""
    for name in ("base", "scorer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    base = smoke()
    return replace(
        base,
        model=replace(base.model, checkpoint=str(tmp_path / "base")),
        evaluation=replace(base.evaluation, scorer=str(tmp_path / "scorer")),
    )


def _keys(graph: Graph) -> dict[str, str]:
    return {node.name: node.key for node in graph.nodes}


def test_the_main_job_reuses_a_trials_training(recipe: RecaRecipe) -> None:
    chosen = apply(recipe, {"lambda_recon": 2.0, "lambda_i2t": 0.5, "learning_rate": 1e-4})
    ours, job = _keys(trial.build(chosen)), _keys(reca.build(chosen))
    assert ours["train"] == job["train"]
    assert set(ours) - set(job) == {"validate"}


def test_trials_differ_in_training_alone(recipe: RecaRecipe) -> None:
    one = _keys(trial.build(apply(recipe, {"learning_rate": 1e-4})))
    other = _keys(trial.build(apply(recipe, {"learning_rate": 2e-4}, updates=4)))
    assert {name for name in one if one[name] != other[name]} == {"train", "validate"}
    common = _keys(shared(recipe))
    assert "train" not in common
    assert common == {name: key for name, key in one.items() if name not in ("train", "validate")}


def test_instructions_are_shared_where_the_recipe_trains_on_them(recipe: RecaRecipe) -> None:
    without = replace(recipe, training=replace(recipe.training, lambda_i2t=0.0))
    assert "encode instructions" not in _keys(shared(without))
    assert "encode instructions" in _keys(shared(recipe))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("stage train failed: NonFiniteError: update 3: the loss is not finite", DivergedError),
        ("stage validate failed: AllRefusedError: none of 12 pictures can be scored", DivergedError),
        ("stage encode images failed: OSError: no space left", RunError),
    ],
)
def test_divergence_is_told_from_other_failures(
    recipe: RecaRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, expected: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise RunError(f"{message}\n0 of 9 stages are done")

    monkeypatch.setattr(module, "run_graph", fail)
    before = Path.cwd()
    objective = PipelineObjective(recipe, str(tmp_path / "store"), ExecutionConfig(), str(tmp_path), "topic")
    with pytest.raises(expected, match=message):
        objective({"learning_rate": 1e-3}, 4)
    assert Path.cwd() == before
