import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from reca.models.base import Example
from reca.models.harmon import diffusion
from reca.models.harmon.head import DiffusionHead
from reca.models.harmon.masking import mask_rate
from reca.models.harmon.model import HarmonModel
from reca.pretraining.harmon import (
    CHANNELS,
    FAMILY,
    HEAVIEST,
    TELLER,
    WORDS_WEIGHT,
    as_met,
    start_as_identity,
    taught,
    told,
)


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


def test_half_of_the_batches_hide_at_most_seven_tenths() -> None:
    uniform = torch.linspace(0, 1, 2001, dtype=torch.float64)
    rates = as_met({"mask_rate": mask_rate(uniform, 0.7), "noise": uniform}, 0.7)
    assert rates["noise"] is uniform
    met = rates["mask_rate"]
    assert torch.allclose(met, torch.sin(0.5 * math.pi * uniform), atol=1e-9)
    assert float(met.median()) == pytest.approx(math.sqrt(0.5), abs=1e-6)
    assert (met * 16).ceil().min() == 1  # a batch without a hidden token would have no loss
    assert (met * 16).ceil().max() == 16


def test_words_are_told_by_the_hidden_tokens_alone_whatever_their_order(model: HarmonModel) -> None:
    conditions = torch.randn(2, 16, 128, generator=torch.Generator().manual_seed(3))
    hidden = torch.tensor([[1, 4, 9], [0, 4, 15]])
    ids = torch.tensor([[5, 6, 7], [7, 8, 8]])
    with torch.no_grad():
        loss = told(model, conditions, hidden, ids)
        other = conditions.clone()
        other[:, 2] += 1.0
        assert torch.equal(told(model, other, hidden, ids), loss)
        assert torch.equal(told(model, conditions, hidden, ids.flip(1)), loss)
        assert not torch.equal(told(model, conditions, hidden, ids + 1), loss)
        logits = model.get_submodule(TELLER)(conditions.gather(1, hidden[..., None].expand(-1, -1, 128)).mean(1))
        by_hand = torch.zeros(())
        for row, words in zip(logits, ids.tolist(), strict=True):
            for word, logit in enumerate(row):
                by_hand += functional.softplus(-logit if word in words else logit) / len(logits)
    assert torch.isclose(loss, by_hand, rtol=1e-5)


def test_words_of_a_dropped_prompt_need_not_be_told(model: HarmonModel) -> None:
    batch, draws = _batch(model)
    changed = {**batch, "ids": batch["ids"].clone()}
    changed["ids"][0, -1] += 1
    draws["text_drop"] = torch.tensor([0.0, 1.0, 1.0])
    with torch.no_grad():
        assert FAMILY.drawing_loss(model, batch, draws) == FAMILY.drawing_loss(model, changed, draws)
        draws["text_drop"] = torch.zeros(3)
        met = as_met(draws, model.config.mar.mask_ratio_min)
        plain = taught(model, *model.drawing("text_to_image", batch, met), batch["latents"], met)
        assert FAMILY.drawing_loss(model, batch, draws) == plain
        draws["text_drop"] = torch.ones(3)
        hidden, found = model.drawing("text_to_image", batch, met | {"text_drop": draws["text_drop"]})
        words = told(model, found.conditions, hidden, batch["ids"])
        expected = taught(model, hidden, found, batch["latents"], met) + WORDS_WEIGHT * words
        assert torch.isclose(FAMILY.drawing_loss(model, batch, draws), expected, rtol=1e-6)


def test_what_reads_words_is_not_part_of_the_base(tmp_path: Path) -> None:
    model = FAMILY.build(FAMILY.new_tokenizer(), 1)
    assert not any(TELLER in name for name in model.trainable())
    FAMILY.finish(model)
    assert not any(TELLER in name for name in model.state_dict())
    model.save(tmp_path)
    assert HarmonModel.load(tmp_path).state_dict().keys() == model.state_dict().keys()
