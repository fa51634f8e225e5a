from collections import deque
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from harmon_tiny import tiny_model, with_config

from reca.config import SamplingConfig
from reca.models.harmon import diffusion
from reca.models.harmon.model import HarmonModel
from reca.models.harmon.network import Prompt
from reca.models.harmon.sampling import DrawingPlan, GroupNoise, Noise, draw_image, seeded_noise

SAMPLING = SamplingConfig(guidance=2.0, steps=3, temperature=1.0)
PLAN = DrawingPlan((4, 4), iterations=4, scale=3.0, schedule="constant", temperature=1.0, levels=5)


def prompts(model: HarmonModel, rows: int) -> Prompt:
    ids = torch.randint(0, 20, (rows, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([[9], [6], [4], [8]])[:rows]
    return model.network.prompt(ids, mask)


@torch.no_grad()
def test_conditions_with_a_cached_prompt_equal_a_full_pass() -> None:
    model = tiny_model()
    front = prompts(model, 4)
    order, noise = seeded_noise([1, 2], 16, 4, 5)
    latents = torch.zeros(2, 4, 4, 4)
    for step in draw_image(model.network, front, PLAN, order, noise):
        visible = (~step.hidden).nonzero()[:, 1].view(2, -1)
        full = model.network.masked_pass(front, latents.repeat(2, 1, 1, 1), visible.repeat(2, 1), None)
        torch.testing.assert_close(step.conditions, full.conditions, atol=1e-5, rtol=1e-4)
        assert torch.equal(step.sequence_mask, full.sequence.mask)
        latents = step.latents


@torch.no_grad()
def test_known_tokens_stay_and_every_token_is_drawn_once() -> None:
    model = tiny_model()
    order, noise = seeded_noise([1, 2], 16, 4, 5)
    steps = list(draw_image(model.network, prompts(model, 4), PLAN, order, noise))
    assert [int(step.hidden[0].sum()) for step in steps] == [16, 14, 11, 6]
    for before, after in pairwise(steps):
        known = ~after.hidden
        assert torch.equal(after.latents.flatten(1, 2)[known], before.latents.flatten(1, 2)[known])
        assert (before.hidden | known).all()
        assert torch.equal(
            before.latents.flatten(1, 2)[after.hidden], torch.zeros_like(before.latents.flatten(1, 2)[after.hidden])
        )
    assert steps[-1].latents.flatten(1, 2).abs().sum(dim=-1).min() > 0


@torch.no_grad()
def test_guidance_schedules() -> None:
    model = tiny_model()
    order, noise = seeded_noise([1], 16, 4, 5)
    linear = draw_image(model.network, prompts(model, 2), replace(PLAN, schedule="linear"), order, noise)
    scales = [step.scale for step in linear]
    assert scales == pytest.approx([1 + 2 * known / 16 for known in (2, 5, 10, 15)])
    constant = draw_image(model.network, prompts(model, 2), PLAN, order, noise)
    assert [step.scale for step in constant] == [3.0] * 4


@torch.no_grad()
def test_guidance_mixes_noise_and_takes_the_variance_of_the_conditional_half() -> None:
    head = tiny_model().network.mar.diffloss.net
    generator = torch.Generator().manual_seed(0)
    x, condition = torch.randn(6, 4, generator=generator), torch.randn(6, 24, generator=generator)
    timestep = torch.full((6,), 500)
    found = diffusion.guided(head, condition, 3.0)(x, timestep)
    seen = torch.cat([x[:3], x[:3]])
    conditional, unconditional = diffusion.unguided(head, condition)(seen, timestep).chunk(2)
    torch.testing.assert_close(found[:3, :4], unconditional[:, :4] + 3 * (conditional[:, :4] - unconditional[:, :4]))
    torch.testing.assert_close(found[:3, 4:], conditional[:, 4:])


@torch.no_grad()
def test_no_temperature_no_noise() -> None:
    model = tiny_model()
    front = prompts(model, 2)
    order, noise = seeded_noise([1], 16, 4, 5)
    _, other = seeded_noise([2], 16, 4, 5)

    def mixed(step: int, chosen: torch.Tensor) -> GroupNoise:
        return replace(noise(step, chosen), steps=other(step, chosen).steps)

    def final(temperature: float, source: Noise) -> torch.Tensor:
        plan = replace(PLAN, temperature=temperature)
        return deque(draw_image(model.network, front, plan, order, source), maxlen=1)[0].latents

    assert torch.equal(final(0.0, noise), final(0.0, mixed))
    assert not torch.equal(final(1.0, noise), final(1.0, mixed))


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_pictures_do_not_depend_on_their_batch(guidance: float) -> None:
    model = tiny_model()
    texts, sampling = ["a red cat", "two blue dogs and a cat", "a cat"], replace(SAMPLING, guidance=guidance)
    together = model.generate(texts, [1, 2, 3], sampling)
    assert together.shape == (3, 3, 16, 16)
    assert together.dtype == torch.uint8
    assert torch.equal(model.generate(texts[1:2], [2], sampling)[0], together[1])
    assert not torch.equal(model.generate(texts[:1], [9], sampling)[0], together[0])


def test_guidance_and_prompt_matter() -> None:
    model = tiny_model()
    plain = model.generate(["a red cat"], [1], replace(SAMPLING, guidance=0.0))
    assert not torch.equal(plain, model.generate(["a red cat"], [1], SAMPLING))
    assert not torch.equal(plain, model.generate(["two blue dogs"], [1], replace(SAMPLING, guidance=0.0)))
    linear = with_config(tiny_model(), guidance_schedule="linear").generate(["a red cat"], [1], SAMPLING)
    assert not torch.equal(linear, model.generate(["a red cat"], [1], SAMPLING))


def test_more_iterations_than_tokens_draw_one_token_each() -> None:
    model = tiny_model()
    many = model.generate(["a red cat"], [1], replace(SAMPLING, steps=40))
    assert many.shape == (1, 3, 16, 16)
    with torch.no_grad():
        order, noise = seeded_noise([1], 16, 4, 5)
        steps = list(draw_image(model.network, prompts(model, 2), replace(PLAN, iterations=40), order, noise))
    assert [int(step.hidden.sum()) for step in steps] == list(range(16, 0, -1))


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_reconstruction_sees_the_picture(guidance: float) -> None:
    model, sampling = tiny_model(), replace(SAMPLING, guidance=guidance)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encoded = model.encode(pixels)
    texts = ["describe the image", "describe the image in detail"]
    drawn = model.reconstruct(encoded, texts, [1, 2], sampling)
    assert drawn.shape == pixels.shape
    one = {name: value[1:] for name, value in encoded.items()}
    assert torch.equal(model.reconstruct(one, texts[1:], [2], sampling)[0], drawn[1])
    other = {name: value[:1] for name, value in encoded.items()}
    assert not torch.equal(model.reconstruct(other, texts[1:], [2], sampling)[0], drawn[1])


def test_answers_equal_decoding_without_cache_and_stop_at_the_end_mark() -> None:
    model = tiny_model()
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encoded = model.encode(pixels)
    questions = ["is the cat?", "what colour is the cat and the image?"]
    answers = model.answer(encoded, questions, 4)
    collator = model.collator
    assert collator is not None
    for row, question in enumerate(questions):
        ids = collator.questions([question], ["q"])
        picture = model.network.understand(encoded["latents"][row : row + 1], None).embeddings
        naive: list[int] = []
        with torch.no_grad():
            for _ in range(4):
                words = torch.tensor([[*ids[0], *naive]])
                front = model.network.prompt(words, torch.ones_like(words, dtype=torch.bool), picture)
                naive.append(int(model.network.llm.lm_head(model.network.states(front)[:, -1]).argmax()))
        assert answers[row] == collator.answer(naive)
    with torch.no_grad():
        # With every state 0, all logits are equal, and a bias decides.
        model.network.llm.model.norm.weight.zero_()
        bias = torch.zeros(64).index_fill(0, torch.tensor(collator.end), 1)
        model.network.llm.lm_head.bias = torch.nn.Parameter(bias)
    assert model.answer(encoded, questions, 4) == ["", ""]
