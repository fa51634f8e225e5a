from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reca.data.edits import edit_at
from reca.data.sets import generator
from reca.models.bagel import flow
from reca.models.bagel.model import BagelModel
from reca.models.bagel.vision import to_patches
from reca.pretraining.bagel import FAMILY, edit_loss
from reca.pretraining.base import train_base
from reca.pretraining.config import BaseRecipe
from reca.pretraining.state import LoopState
from reca.pretraining.tokenizer import scene_pixels, training_scenes

RECIPE = BaseRecipe(updates=1, batch_size=2, scenes=8, spelled=2)


@pytest.fixture(name="model")
def _model() -> BagelModel:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return FAMILY.build(FAMILY.new_tokenizer(), 1).eval()


def test_latents_of_training_scenes_are_drawn_with_mean_0_and_variance_1(model: BagelModel) -> None:
    mean, deviation = model.vae.moments(training_scenes(7, 0, 256))
    drawn = mean + deviation * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    assert abs(float(drawn.mean())) < 0.02
    assert float(drawn.var()) == pytest.approx(1, abs=0.02)


def test_pre_training_opens_the_understanding_side_and_closes_it_again(model: BagelModel, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_base(FAMILY, model, RECIPE, LoopState(str(tmp_path)), lambda _line: None)
    still = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert {name for name in still if not name.startswith("vae.")} == {
        "network.vit_pos_embed.pos_embed",
        "network.latent_pos_embed.pos_embed",
    }
    assert model.understanding_frozen
    assert {id(value) for value in model.parameters() if value.requires_grad} == {
        id(value) for value in model.trainable().values()
    }


def test_an_edit_is_learnt_in_the_layout_in_which_it_is_drawn(model: BagelModel) -> None:
    """Pictures and instruction read one by one, as `BagelModel.edit` does, give the loss of the packed pass."""
    assert model.collator is not None
    edit, rng = edit_at("edits", 3, 0), generator("test", 1, 0)
    assert (generator("test", 1, 0).random(2) >= 0.1).all()
    with torch.no_grad():
        loss = float(edit_loss(model, [edit], rng))
        rng = generator("test", 1, 0)
        rng.random(2)
        draws = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pixels = scene_pixels([edit.source, edit.target])
        means, deviations = model.vae.moments(pixels)
        posterior = torch.cat([torch.randn(1, *means.shape[1:], generator=draws) for _ in range(2)])
        source, target = to_patches(means + deviations * posterior, model.config.latent_patch_size).split(1)
        time = flow.shifted(torch.randn(2, generator=draws)[1].sigmoid(), model.config.timestep_shift)
        noise = torch.randn(32, 16, generator=draws)[16:]
        context = model.reader.latents(model.reader.empty(1), source, 4)
        context = model.reader.seen(context, FAMILY.features(model, pixels[:1]))
        context = model.reader.text(context, model.collator.prompts([edit.instruction], 54))
        velocity = model.reader.velocity(context, flow.noised(target, noise, time), time[None], 4)
    assert loss == pytest.approx(float((velocity - (noise - target)).square().mean()), rel=1e-4)


def test_the_edits_of_an_update_are_fixed_and_differ_between_updates(model: BagelModel) -> None:
    with torch.no_grad():
        first, again, other = (FAMILY.further(model, RECIPE, update)["edit"] for update in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(("seed", "read"), [(1, "source instruction"), (5, "instruction"), (0, "source")])
def test_an_edit_may_lose_its_picture_or_its_instruction(model: BagelModel, seed: int, read: str) -> None:
    edit, other = (edit_at("edits", 3, index) for index in range(2))
    assert edit.instruction != other.instruction

    def loss(**changes: Any) -> float:
        with torch.no_grad():
            return float(edit_loss(model, [replace(edit, **changes)], generator("test", seed, 0)))

    changed = {name for name in ("source", "instruction") if loss(**{name: getattr(other, name)}) != loss()}
    assert changed == set(read.split())
