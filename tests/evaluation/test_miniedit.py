"""MiniEdit: rules on made-up detections and on true scenes, a whole run on a tiny BAGEL, files and comparison."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import bagel_tiny
import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import showo_tiny
import torch
from torch import Tensor

from pipelines.report_inputs import read_edits
from reca.config import EditConfig, SamplingConfig
from reca.data.edits import WORDS, Edit
from reca.data.scenes import CELL, Scene, SceneObject, render, vocabulary
from reca.evaluation import miniedit
from reca.evaluation.geneval import Detection
from reca.evaluation.miniedit import MiniEditRecord, MiniEditResult
from reca.evaluation.minigeneval.scorer import Scorer
from reca.evaluation.pictures import unpng
from reca.evaluation.records import BenchmarkError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = EditConfig(count=12, bootstrap=50, sampling=SamplingConfig(guidance=1.0, steps=2))
DOG, CAT, CAR = (SceneObject(*each) for each in (("dog", "red", 0, 0), ("cat", "blue", 32, 0), ("car", "green", 0, 32)))
BLUE_DOG, BUS = replace(DOG, color="blue"), replace(DOG, name="bus")
SOURCE = Scene((DOG, CAT, CAR))
RECOLOUR = Edit("color", SOURCE, "make the dog blue", Scene((BLUE_DOG, CAT, CAR)), DOG, BLUE_DOG)
REMOVE = Edit("remove", SOURCE, "remove the dog", Scene((CAT, CAR)), DOG, None)
REPLACE = Edit("replace", SOURCE, "replace the dog by a bus", Scene((BUS, CAT, CAR)), DOG, BUS)


def seen(*items: SceneObject, score: float = 0.9) -> list[Detection]:
    return [Detection(o.name, (o.x + 2, o.y + 2, o.x + CELL - 2, o.y + CELL - 2), score, o.color) for o in items]


@pytest.mark.parametrize(
    ("edit", "found", "scores", "why"),
    [
        (RECOLOUR, (BLUE_DOG, CAT, CAR), (1, 1, 1), ""),
        (RECOLOUR, (DOG, CAT, CAR), (0, 0, 1), "no blue dog where the red dog was"),
        (RECOLOUR, (replace(BLUE_DOG, x=16), CAT, CAR), (0, 0, 1), "no blue dog where"),
        (RECOLOUR, (BLUE_DOG, replace(CAT, color="red"), CAR), (0, 1, 0.5), "the blue cat was not kept"),
        (RECOLOUR, (BLUE_DOG, CAT, replace(CAR, y=16)), (0, 1, 0.5), "the green car was not kept"),
        (RECOLOUR, (BLUE_DOG, CAT, CAR, replace(CAR, x=32, y=32)), (0, 1, 1), "1 more than the 3 objects"),
        (REMOVE, (CAT, CAR), (1, 1, 1), ""),
        (REMOVE, (replace(DOG, x=32, y=32), CAT, CAR), (0, 0, 1), "the dog is still there"),
        (REMOVE, (), (0, 1, 0), "the blue cat was not kept; the green car was not kept"),
        (REPLACE, (BUS, CAT, CAR), (1, 1, 1), ""),
        (REPLACE, (BUS, DOG, CAT, CAR), (0, 0, 1), "the dog is still there"),
        (REPLACE, (replace(BUS, color="green"), CAT, CAR), (0, 0, 1), "no red bus where the red dog was"),
    ],
)
def test_an_edit_is_done_kept_and_nothing_else(
    edit: Edit, found: Sequence[SceneObject], scores: tuple[float, float, float], why: str
) -> None:
    # Detections below the threshold do not count.
    record = miniedit.judge(3, edit, [*seen(*found), *seen(*SOURCE.objects, score=0.4)])
    assert tuple(record.scores[name] for name in miniedit.MEASURES) == scores
    assert "; ".join(record.why).startswith(why)
    assert bool(record.why) == (not scores[0])
    assert record.asked.others == (CAT, CAR)


def test_with_nothing_to_keep_there_is_no_kept() -> None:
    alone = Edit("color", Scene((DOG,)), "make the dog blue", Scene((BLUE_DOG,)), DOG, BLUE_DOG)
    assert miniedit.judge(0, alone, seen(BLUE_DOG)).scores == {"success": 1.0, "done": 1.0}


def test_the_scorer_tells_true_edits_from_untouched_pictures_and_blanks() -> None:
    scorer, edits = Scorer.load(ROOT / "checkpoints/minigeneval_scorer"), miniedit.held_out_edits(60)

    def result(picture: Callable[[Edit], np.ndarray]) -> dict[str, float]:
        found = scorer.detect(np.stack([picture(edit).transpose(2, 0, 1) for edit in edits]))
        records = [miniedit.judge(i, edit, one) for i, (edit, one) in enumerate(zip(edits, found, strict=True))]
        scores = miniedit.summarize(records, CONFIG, scorer.digest).scores
        return {measure: scores[measure]["overall"].value for measure in miniedit.MEASURES}

    assert result(lambda edit: render(edit.target)) == {"success": 1.0, "done": 1.0, "kept": 1.0}
    assert result(lambda edit: render(edit.source)) == {"success": 0.0, "done": 0.0, "kept": 1.0}
    blank = result(lambda _: np.full((64, 64, 3), 220, dtype=np.uint8))
    assert blank == {"success": 0.0, "done": pytest.approx(1 / 3), "kept": 0.0}


class Oracle(bagel_tiny.BagelModel):
    """Edits like the world itself, from instruction and order; a share of its pictures stay as they are."""

    faults = 0

    def edit(
        self, pixels: Tensor, instructions: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        edits = miniedit.held_out_edits(CONFIG.count)
        assert [edit.instruction for edit in edits] == list(instructions)
        assert len(set(seeds)) == len(seeds)
        sides = [edit.source if i < self.faults else edit.target for i, edit in enumerate(edits)]
        return torch.from_numpy(np.stack([render(scene) for scene in sides])).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(ROOT / "checkpoints/minigeneval_scorer")


def oracle(faults: int) -> Oracle:
    model = bagel_tiny.tiny_model()
    model.__class__ = Oracle
    assert isinstance(model, Oracle)
    model.faults = faults
    return model


def test_results_come_back_and_are_compared_in_pairs(scorer: Scorer, tmp_path: Path) -> None:
    sides: list[MiniEditResult] = []
    for name, faults in (("before", 6), ("after", 0)):
        result, images = miniedit.evaluate(oracle(faults), scorer, CONFIG)
        miniedit.save(result, images, tmp_path / name)
        loaded = miniedit.load(tmp_path / name)
        assert msgspec.json.encode(loaded) == msgspec.json.encode(result)
        assert miniedit.summarize(loaded.records, CONFIG, scorer.digest) == loaded
        sides.append(loaded)
    kinds = [record.group for record in sides[0].records]
    share = {kind: kinds[:6].count(kind) / kinds.count(kind) for kind in set(kinds)}
    change = miniedit.compare(*sides, resamples=50)["success"]
    assert {kind: change[kind].value for kind in share} == pytest.approx(share)
    assert change["overall"].value == pytest.approx(sum(share.values()) / len(share))
    table = pq.read_table(tmp_path / "before" / miniedit.IMAGES)
    edit = miniedit.held_out_edits(1)[0]
    assert (unpng(table["edited"][11].as_py()) == unpng(table["target"][11].as_py())).all()
    assert unpng(table["source"][0].as_py()).shape == (3, 64, 64)
    assert (unpng(table["target"][0].as_py()).transpose(1, 2, 0) == render(edit.target)).all()

    edited = read_edits(tmp_path / "before", tmp_path / "after", ("base", "RecA"), 50)
    assert edited.grid.columns == ("source", "base", "RecA", "wanted")
    assert [picture.passed for picture in edited.grid.rows[0].pictures] == [None, False, True, None]
    assert edited.grid.rows[0].label == edit.instruction
    (first, *_) = edited.measures
    assert (first.name, first.after) == ("success", 1.0)
    with pytest.raises(BenchmarkError, match="results differ in seed: 1234 and 1; score both models alike"):
        miniedit.compare(sides[0], msgspec.structs.replace(sides[1], seed=1))
    with pytest.raises(BenchmarkError, match="results of MiniEdit 1 hold other items"):
        miniedit.compare(sides[0], msgspec.structs.replace(sides[1], records=sides[1].records[1:]))
    with pytest.raises(BenchmarkError, match="no readable miniedit result in"):
        miniedit.load(tmp_path)


def test_a_tiny_bagel_is_scored_whatever_the_batch(scorer: Scorer) -> None:
    model = bagel_tiny.tiny_model(words=(*vocabulary(), *WORDS))
    result, images = miniedit.evaluate(model, scorer, CONFIG)
    again, others = miniedit.evaluate(model, scorer, CONFIG, batch_size=5)
    assert images.shape == (12, 3, 32, 32)
    assert (images.int() - others.int()).abs().max() <= 1
    assert [record_key(r) for r in result.records] == [record_key(r) for r in again.records]
    assert set(result.scores["success"]) == {"overall", "color", "remove", "replace"}


def record_key(record: MiniEditRecord) -> tuple[object, ...]:
    return record.item, record.group, record.asked


def test_a_family_that_does_not_edit_is_refused(scorer: Scorer) -> None:
    with pytest.raises(BenchmarkError, match="ShowoModel edits no pictures"):
        miniedit.evaluate(showo_tiny.tiny_model(), scorer, CONFIG)
