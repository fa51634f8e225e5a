from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from reca.models.base import Example
from reca.models.harmon import diffusion
from reca.models.harmon.head import DiffusionHead
from reca.models.harmon.model import HarmonModel
from reca.pretraining.harmon import CHANNELS, FAMILY, HEAVIEST, start_as_identity, taught


@pytest.fixture(scope="module")
def model() -> HarmonModel:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return FAMILY.build(FAMILY.new_tokenizer(), 1)


def test_a_fresh_head_answers_noise_with_itself_whatever_the_condition() -> None:
    torch.manual_seed(0)
    head = DiffusionHead(channels=16, condition=32, width=64, depth=2, recompute=False)
    start_as_identity(head)
    noise = torch.randn(200, 16)
    answer = head(noise, torch.randint(1000, (200,)), torch.randn(200, 32))
    assert functional.mse_loss(answer[:, :16], noise).sqrt() < 0.05
    assert torch.equal(answer[:, 16:], torch.zeros(200, 16))


def test_blocks_of_a_fresh_head_see_their_input_without_the_constant() -> None:
    torch.manual_seed(0)
    head = DiffusionHead(channels=16, condition=32, width=64, depth=1, recompute=False)
    start_as_identity(head)
    block = head.res_blocks[0]
    seen = block.get_submodule("in_ln")(head.input_proj(torch.randn(500, 16)))
    assert seen.mean(0).abs().max() < 0.3
    assert 0.8 < seen.std() < 1.1


def _batch(model: HarmonModel) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    latents = torch.randn(3, 4, 4, CHANNELS, generator=torch.Generator().manual_seed(5)).numpy()
    examples = [Example(str(i), f"a {name}", {"latents": latents[i]}) for i, name in enumerate(("dog", "cat", "car"))]
    batch = model.collate("text_to_image", examples)
    return batch, {**model.draw("text_to_image", batch, [1, 2, 3]), **model.draw_shared("text_to_image", 4)}


def test_the_loss_is_the_published_one_reweighed_and_a_regression_to_the_latents(model: HarmonModel) -> None:
    batch, draws = _batch(model)
    # One level for all tokens, so that the weight is one number.
    draws["timestep"] = torch.full_like(draws["timestep"], 600)
    with torch.no_grad():
        hidden, found = model.drawing("text_to_image", batch, draws)
        rows = hidden[..., None].expand(-1, -1, CHANNELS)
        exact = found.conditions.clone()
        exact[..., :CHANNELS] = batch["latents"].flatten(1, 2)
        told = replace(found, conditions=exact)
        gap = functional.mse_loss(
            found.conditions[..., :CHANNELS].gather(1, rows), batch["latents"].flatten(1, 2).gather(1, rows)
        )
        terms = model.token_losses(found.conditions, batch["latents"], hidden, draws)
        share = diffusion.schedule().alphas_cumprod[600].float()
        loss = taught(model, hidden, found, batch["latents"], draws)
        less = taught(model, hidden, told, batch["latents"], draws)
    # A fresh head ignores conditions, so only the regression differs.
    assert torch.isclose(loss - less, gap, rtol=1e-3)
    noise = draws["noise"][:, 0].gather(1, rows).flatten(0, 1)
    highest = torch.full((len(noise),), diffusion.STEPS - 1)
    with torch.no_grad():
        answer = model.network.mar.diffloss.net(noise, highest, torch.zeros(len(noise), exact.shape[-1]))
    extra = HEAVIEST * functional.mse_loss(answer[:, :CHANNELS], noise)
    assert torch.isclose(less, (terms.error / share + terms.bound).mean() + extra, rtol=1e-3)


def test_no_level_weighs_more_than_the_heaviest(model: HarmonModel) -> None:
    batch, draws = _batch(model)
    draws["timestep"] = torch.full_like(draws["timestep"], diffusion.STEPS - 1)
    with torch.no_grad():
        hidden, found = model.drawing("text_to_image", batch, draws)
        terms = model.token_losses(found.conditions, batch["latents"], hidden, draws)
        loss = taught(model, hidden, found, batch["latents"], draws)
    assert loss < 2 * HEAVIEST * terms.error.mean() + terms.bound.mean() + 3
    assert torch.isfinite(loss)
