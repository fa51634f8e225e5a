import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from reca.data.scenes import CLASSES, COLORS, render, sample_scene
from reca.data.sets import generator
from reca.evaluation.geneval import TASKS, judge
from reca.evaluation.minigeneval.ceiling import ceiling
from reca.evaluation.minigeneval.network import Maps, ScorerNetwork
from reca.evaluation.minigeneval.pictures import JUNK, Pool, damage, objects_on_lattice, stack
from reca.evaluation.minigeneval.prompts import prompts
from reca.evaluation.minigeneval.scorer import OPTIONS, Scorer, ScorerError, decode
from reca.evaluation.minigeneval.training import ScorerRecipe, batch, scorer_loss, targets_of, train_scorer
from reca.evaluation.minigeneval.worlds import near_miss, satisfying, true_detections

SCORER = Path(__file__).parents[3] / "checkpoints/minigeneval_scorer"


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(SCORER)


def test_the_shipped_scorer_reads_scenes(scorer: Scorer) -> None:
    scenes = [sample_scene(generator("scorer-test", 0, i)) for i in range(64)]
    found = scorer.detect(np.stack([render(s) for s in scenes]).transpose(0, 3, 1, 2))
    for scene, seen in zip(scenes, found, strict=True):
        sure = [d for d in seen if d.score > OPTIONS.threshold]
        assert sorted((d.name, d.color or "") for d in sure) == sorted((o.name, o.color) for o in scene.objects)
        for truth in true_detections(scene):
            errors = [np.abs(np.subtract(d.box, truth.box)).max() for d in sure if d.name == truth.name]
            assert min(errors) < 2.0


def test_ceiling_and_junk_gate_of_the_shipped_scorer(scorer: Scorer) -> None:
    measured = ceiling(scorer, scenes=20, junk=40)
    assert list(measured.accept) == ["clean", "blur", "half resolution", "third resolution", "noise", "jpeg"]
    assert min(measured.accept["clean"].values()) >= 0.95
    assert min(measured.reject["clean"].values()) >= 0.95
    assert min(min(row.values()) for row in measured.accept.values()) >= 0.8
    assert measured.junk_gate
    assert set(measured.junk) == set(JUNK)


def test_the_card_states_recipe_and_ceiling(scorer: Scorer) -> None:
    assert (SCORER / "model.safetensors").stat().st_size < 1_500_000
    assert scorer.card["recipe"]["seed"] == ScorerRecipe.seed
    assert set(scorer.card["ceiling"]["accept"]["clean"]) == set(TASKS)
    assert max(scorer.card["junk_passed"].values()) < 0.01


def test_bad_folders_are_named(scorer: Scorer, tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="no readable scorer in"):
        Scorer.load(tmp_path)
    shutil.copytree(SCORER, tmp_path / "copy")
    card = json.loads((SCORER / "config.json").read_text())
    (tmp_path / "copy/config.json").write_text(json.dumps({**card, "digest": "0" * 32}))
    with pytest.raises(ScorerError, match="was altered"):
        Scorer.load(tmp_path / "copy")
    (tmp_path / "copy/config.json").write_text(json.dumps({**card, "classes": ["dog"]}))
    with pytest.raises(ScorerError, match="other classes or colours"):
        Scorer.load(tmp_path / "copy")
    with pytest.raises(ScorerError, match="give uint8"):
        scorer.detect(torch.zeros(1, 3, 64, 64))


def test_training_is_a_function_of_the_recipe_and_learns(tmp_path: Path) -> None:
    recipe = ScorerRecipe(steps=6, batch_size=16, warmup=2)
    first, second = (train_scorer(recipe, progress=lambda _: None) for _ in range(2))
    assert first.digest == second.digest
    first.save(tmp_path)
    assert Scorer.load(tmp_path).digest == first.digest
    pixels, targets = batch(recipe, 0, Pool.load())
    untrained = ScorerNetwork(len(CLASSES), len(COLORS)).train()
    values = pixels / 127.5 - 1
    assert scorer_loss(first.network.train()(values), targets) < 0.8 * scorer_loss(untrained(values), targets)


def test_perfect_maps_decode_to_the_truth() -> None:
    recipe = ScorerRecipe(batch_size=8)
    _, targets = batch(recipe, 3, Pool.load())
    picture, row, column = targets.points.T
    shape = (8, len(COLORS), 16, 16)
    color, offset, size = torch.zeros(shape), torch.zeros(8, 2, 16, 16), torch.zeros(8, 2, 16, 16)
    color[picture, targets.color, row, column] = 5
    offset[picture, :, row, column], size[picture, :, row, column] = targets.offset, targets.size
    maps = Maps(torch.where(targets.heat == 1, 8.0, -8.0), color, offset, size)
    found = decode(maps)
    assert sum(map(len, found)) == len(picture)
    centers = sorted(((d.box[0] + d.box[2]) / 2, (d.box[1] + d.box[3]) / 2) for items in found for d in items)
    expected = (torch.stack([column, row], dim=1) + targets.offset) * 4
    np.testing.assert_allclose(centers, sorted(map(tuple, expected.tolist())), atol=1e-4)
    perfect = scorer_loss(maps, targets)
    assert perfect < 0.2


def test_damage_and_junk_are_functions_of_the_seed() -> None:
    pool = Pool.load()
    for make in JUNK.values():
        first, second = (make(np.random.default_rng(5), pool) for _ in range(2))
        assert first.shape == (64, 64, 3)
        assert (first == second).all()
        assert first.min() >= 0
        assert first.max() <= 255
    pixels = stack([pool.compose([]) for _ in range(6)])
    first, second = (damage(pixels, np.random.default_rng(5)) for _ in range(2))
    assert first.shape == pixels.shape
    assert torch.equal(first, second)


def test_targets_mark_objects_and_leave_junk_empty() -> None:
    objects = objects_on_lattice(np.random.default_rng(0))
    heat = targets_of([objects], 2).heat
    assert (heat[0] == 1).sum() == len(objects)
    assert heat[1].sum() == 0


def test_scenes_satisfy_or_just_miss_their_prompts() -> None:
    for index, prompt in enumerate(prompts("test", 30)):
        rng = np.random.default_rng(index)
        assert judge(prompt, true_detections(satisfying(prompt, rng)), OPTIONS).correct
        assert not judge(prompt, true_detections(near_miss(prompt, rng)), OPTIONS).correct
