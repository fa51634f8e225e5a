"""Edits in the main job: only where the family edits, in stages of their own, and in the report."""

from dataclasses import replace
from pathlib import Path

import bagel_tiny
import pytest

from pipelines.artifacts import Checkpoint, EditScores, ImageShards
from pipelines.dsl import Artifact, External, RunView, SettingsError, StageContext
from pipelines.reca import reca
from pipelines.recipes import tiny_showo
from pipelines.report_inputs import read_edits
from pipelines.stages import encode, score_edits
from reca.config import EditConfig, ModelConfig, RecaRecipe, SamplingConfig
from reca.data.edits import WORDS
from reca.data.scenes import vocabulary

ROOT = Path(__file__).resolve().parents[2]
EDITS = EditConfig(count=6, bootstrap=20, sampling=SamplingConfig(guidance=1.0, steps=2))


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny BAGEL that knows the world's words, as an artifact holds it."""
    folder = tmp_path_factory.mktemp("bagel")
    bagel_tiny.tiny_model(words=(*vocabulary(), *WORDS)).save(folder / "model")
    return folder


def keys(recipe: RecaRecipe) -> dict[str, str]:
    return {node.name: node.key for node in reca.build(recipe).nodes}


def bagel(editor: Path, edits: EditConfig = EDITS) -> RecaRecipe:
    base = tiny_showo()
    training = replace(base.training, lambda_i2t=0.0)
    return replace(base, model=ModelConfig("bagel", str(editor / "model")), training=training, edits=edits)


def test_only_families_that_edit_are_scored_on_edits(editor: Path) -> None:
    showo = keys(tiny_showo())
    assert not [name for name in showo if name.startswith("edit")]
    assert showo == keys(replace(tiny_showo(), edits=EDITS))
    found = keys(bagel(editor))
    assert {"edit before", "edit after", "report"} <= set(found)
    without = keys(bagel(editor, replace(EDITS, count=0)))
    assert {name: key for name, key in found.items() if name in without and name != "report"} == {
        name: key for name, key in without.items() if name != "report"
    }
    assert set(found) - set(without) == {"edit before", "edit after"}


def test_instructions_for_a_frozen_understanding_side_are_refused_when_they_are_encoded(
    editor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Artifact, "local", lambda artifact: Path(artifact.uri))
    model = replace(Checkpoint.of(family="bagel", parameters=1, trainable=1), uri=str(editor))
    shards = ImageShards.of(kind="instructions", rows_in=1, rows=1, digest="")
    context = StageContext("encode", tmp_path, str(tmp_path), None, RunView("test", "reca"), print)
    with pytest.raises(SettingsError, match=r"side of bagel is frozen.*set training.lambda_i2t=0"):
        encode.function(context, shards, model)


def test_edits_of_a_checkpoint_are_scored_and_compared(
    editor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Artifact, "local", lambda artifact: Path(artifact.uri))
    model = replace(Checkpoint.of(family="bagel", parameters=1, trainable=1), uri=str(editor))
    lines: list[str] = []
    made: list[EditScores] = []
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        context = StageContext(name, tmp_path / name, str(tmp_path), None, RunView("test", "reca"), lines.append)
        scorer = External(str(ROOT / "checkpoints/minigeneval_scorer"))
        made.append(score_edits.function(context, model, scorer, EDITS))
    assert made[0] == made[1]
    assert lines[0].startswith("MiniEdit success ")
    edited = read_edits(tmp_path / "before", tmp_path / "after", ("base", "RecA"), 20)
    assert len(edited.grid.rows) == 6
    differences = [row.difference for row in edited.measures]
    assert all(one is not None and (one.value, one.low, one.high) == (0.0, 0.0, 0.0) for one in differences)
