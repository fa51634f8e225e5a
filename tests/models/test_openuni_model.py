from collections.abc import Sequence

import pytest
import torch
from openuni_tiny import SIDE, examples, pictures, tiny_model
from torch import nn

from reca.config import SamplingConfig
from reca.models.base import LossTerm, Task
from reca.models.openuni.model import OpenUniModel
from reca.models.openuni.prompts import pad

SAMPLING = SamplingConfig(guidance=3.5, steps=3)
TEXTS: dict[Task, list[str]] = {
    "reconstruction": ["describe the image", "describe the image in detail", "the cat"],
    "text_to_image": ["a red cat", "two blue dogs and a cat", ""],
}
TASKS = list(TEXTS)


def losses(model: OpenUniModel, task: Task, rows: Sequence[int]) -> LossTerm:
    chosen = [examples(model, TEXTS[task])[row] for row in rows]
    batch = model.collate(task, chosen)
    return model.loss(task, batch, model.draw(task, batch, [100 + row for row in rows]))


def test_encodings_have_the_stated_shapes_and_do_not_depend_on_the_batch() -> None:
    model = tiny_model()
    encoded = model.encode(pictures(3))
    assert {name: (tuple(value.shape), value.dtype) for name, value in encoded.items()} == {
        "latents": ((3, 4, 8, 8), torch.float32),
        "features": ((3, 4, 32), torch.float32),
    }
    alone = model.encode(pictures(3)[1:2])
    assert all(torch.allclose(value[0], encoded[name][1], atol=1e-5) for name, value in alone.items())
    assert model.geometry.size == SIDE


@pytest.mark.parametrize("task", TASKS)
def test_losses_add_up_over_any_split_of_a_batch(task: Task) -> None:
    model = tiny_model()
    whole = losses(model, task, [0, 1, 2])
    parts = [losses(model, task, [0]), losses(model, task, [1, 2])]
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)
    assert whole.count == parts[0].count + parts[1].count == 3 * 4 * 8 * 8
    assert whole.total.dtype == whole.count.dtype == torch.float32


@pytest.mark.parametrize("task", TASKS)
def test_losses_are_pure_and_draws_depend_on_the_seed_of_the_example_only(task: Task) -> None:
    model = tiny_model()
    chosen = examples(model, TEXTS[task])
    batch = model.collate(task, chosen)
    whole = model.draw(task, batch, [7, 8, 9])
    alone = model.draw(task, model.collate(task, chosen[1:2]), [8])
    assert set(whole) == set(alone)
    assert all(torch.equal(alone[name][0], value[1]) for name, value in whole.items())
    assert torch.equal(model.loss(task, batch, whole).total, model.loss(task, batch, whole).total)
    other = model.draw(task, batch, [7, 8, 10])
    assert not torch.equal(model.loss(task, batch, whole).total, model.loss(task, batch, other).total)


def test_the_loss_is_the_stated_flow_matching_error() -> None:
    model = tiny_model()
    batch = model.collate("reconstruction", examples(model, TEXTS["reconstruction"]))
    draws = model.draw("reconstruction", batch, [1, 2, 3])
    draws["uniform"] = torch.tensor([0.0, 0.2503, 0.9999])
    sigma = torch.tensor([1.0, 0.75, 0.001])
    clean = batch["latents"] * 0.41407
    share = sigma.view(-1, 1, 1, 1)
    context = model.context(model.query_inputs(batch["input_ids"], batch["mask"], batch["features"]))
    velocity = model.velocity((1 - share) * clean + share * draws["noise"], context, sigma * 1000)
    expected = (velocity - (draws["noise"] - clean)).square().mean()
    torch.testing.assert_close(model.loss("reconstruction", batch, draws).mean, expected)


def test_captions_are_dropped_below_the_configured_draw_only() -> None:
    model = tiny_model()
    batch = model.collate("text_to_image", examples(model, TEXTS["text_to_image"]))
    draws = model.draw("text_to_image", batch, [1, 2, 3])
    draws["caption_drop"] = torch.tensor([0.05, 0.1, 0.5])
    mixed = {**batch, "input_ids": batch["input_ids"].clone(), "mask": batch["mask"].clone()}
    mixed["input_ids"][0], mixed["mask"][0] = batch["dropped_ids"][0], batch["dropped_mask"][0]
    kept = {**draws, "caption_drop": torch.ones(3)}
    found, expected = model.loss("text_to_image", batch, draws), model.loss("text_to_image", mixed, kept)
    assert torch.equal(found.total, expected.total)
    assert not torch.equal(found.total, model.loss("text_to_image", batch, kept).total)


@pytest.mark.parametrize("side", ["left", "right"])
def test_pads_on_either_side_change_nothing(side: str) -> None:
    model = tiny_model()
    rows = [[5, 9, 4], [3, 8, 7, 6, 2, 1]]
    padded = pad(rows, left=side == "left")
    with torch.no_grad():
        both = model.context(model.query_inputs(padded.ids, padded.mask, None))
        alone = model.context(model.query_inputs(torch.tensor(rows[:1]), torch.ones(1, 3, dtype=torch.bool), None))
    torch.testing.assert_close(both[0], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_overfitting_one_batch_lowers_the_loss_and_leaves_frozen_parts_bit_unchanged(task: Task) -> None:
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = model.collate(task, examples(model, TEXTS[task]))
    draws = model.draw(task, batch, [1, 2, 3])
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=3e-3, weight_decay=0.1)
    found: list[float] = []
    for _ in range(30):
        term = model.loss(task, batch, draws)
        found.append(float(term.mean.detach()))
        optimizer.zero_grad()
        term.mean.backward()
        optimizer.step()
    assert found[-1] < 0.5 * found[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(model.trainable())


def test_only_the_generation_side_trains() -> None:
    model = tiny_model().train()
    free = {name for name, value in model.named_parameters() if value.requires_grad}
    assert free == set(model.trainable())
    assert {name.split(".")[0] for name in free} == {"meta_queries", "connector", "projector", "transformer"}
    assert not model.lmm.training
    assert not model.lmm.language_model.training
    assert not model.vae.training
    assert model.transformer.training


def count_calls(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("task", TASKS)
def test_recomputed_activations_give_the_same_gradients(task: Task) -> None:
    gradients: list[dict[str, torch.Tensor]] = []
    for recompute in (False, True):
        model = tiny_model(activation_checkpointing=recompute).train()
        calls = count_calls(model.lmm.language_model.model.layers[1].self_attn)
        calls_of_sana = count_calls(model.transformer.transformer_blocks[1].attn1)
        losses(model, task, [0, 1]).total.backward()
        gradients.append({name: value.grad for name, value in model.trainable().items() if value.grad is not None})
        assert len(calls) == len(calls_of_sana) == (2 if recompute else 1)
    assert set(gradients[0]) == set(gradients[1]) == set(tiny_model().trainable())
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())


def test_bfloat16_autocast_stays_close_and_gives_float32_gradients() -> None:
    model = tiny_model().train()
    batch = model.collate("reconstruction", examples(model, TEXTS["reconstruction"]))
    draws = model.draw("reconstruction", batch, [1, 2, 3])
    exact = model.loss("reconstruction", batch, draws)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.loss("reconstruction", batch, draws)
    assert rough.total.dtype == torch.float32
    torch.testing.assert_close(rough.total, exact.total, rtol=0.03, atol=0.0)
    rough.mean.backward()
    assert all(value.grad is not None and value.grad.dtype == torch.float32 for value in model.trainable().values())


@pytest.mark.parametrize("guidance", [0.0, 3.5])
def test_pictures_depend_on_their_own_prompt_and_seed_only(guidance: float) -> None:
    model, sampling = tiny_model(), SamplingConfig(guidance=guidance, steps=3)
    prompts = ["a red cat", "two blue dogs", "a cat and a red cat"]
    together = model.generate(prompts, [1, 2, 3], sampling)
    assert together.shape == (3, 3, SIDE, SIDE)
    assert together.dtype == torch.uint8
    alone = model.generate(prompts[1:2], [2], sampling)[0]
    assert int((alone.int() - together[1].int()).abs().max()) <= 1  # another batch size rounds differently
    assert torch.equal(model.generate(prompts, [1, 2, 3], sampling), together)
    assert not torch.equal(model.generate(prompts[:1], [9], sampling)[0], together[0])


def test_reconstructions_follow_the_image_and_guidance_keeps_it() -> None:
    model = tiny_model()
    encoded = model.encode(pictures(2))
    prompts, seeds = ["the image", "describe the image"], [1, 2]
    drawn = model.reconstruct(encoded, prompts, seeds, SAMPLING)
    assert drawn.shape == (2, 3, SIDE, SIDE)
    stored = {name: value.half() for name, value in encoded.items()}
    assert model.reconstruct(stored, prompts, seeds, SAMPLING).dtype == torch.uint8
    swapped = {name: value.flip(0) for name, value in encoded.items()}
    assert not torch.equal(model.reconstruct(swapped, prompts, seeds, SAMPLING), drawn)
    # "Keep the image as it is." is the unconditional prompt: as the prompt itself, guidance changes nothing.
    same = ["keep the image as it is."] * 2
    unguided = model.reconstruct(encoded, same, seeds, SamplingConfig(guidance=0.0, steps=3))
    assert int((model.reconstruct(encoded, same, seeds, SAMPLING).int() - unguided.int()).abs().max()) <= 1


def test_guidance_is_the_stated_mixture() -> None:
    model = tiny_model()
    context = torch.randn(4, 5, 24, generator=torch.Generator().manual_seed(0))
    latents, time = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor(700)
    with torch.no_grad():
        found = model.guided_velocity(context, 3.5)(latents, time)
        times = torch.tensor([700.0, 700.0])
        conditional, unconditional = (model.velocity(latents, part, times) for part in context.chunk(2))
    torch.testing.assert_close(found, 4.5 * conditional - 3.5 * unconditional, atol=1e-4, rtol=1e-4)


def test_answers_equal_decoding_without_cache_and_batch_and_stop_at_the_end_mark() -> None:
    model = tiny_model()
    encoded = model.encode(pictures(2))
    questions = ["what colour is the cat?", "what is the cat and the image in detail?"]
    answers = model.answer(encoded, questions, 4)
    assert model.prompter is not None
    for row, question in enumerate(questions):
        ids = model.prompter.questions([question], ["question"], 8).ids
        with torch.no_grad():
            for _ in range(4):
                embeddings = model.lmm.embed(ids, encoded["features"][row : row + 1], model.config.image_context_id)
                ones, places = torch.ones_like(ids, dtype=torch.bool), torch.arange(ids.shape[1])[None]
                logits = model.lmm.language_model.lm_head(model.lmm.states(embeddings, ones, places)[:, -1])
                ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
        assert answers[row] == model.prompter.answer(ids[0, -4:].tolist())
    first = int(ids[0, -4])
    with torch.no_grad():  # swap the first id with the end mark
        rows = model.lmm.language_model.lm_head.weight[[first, model.prompter.turn_end]]
        model.lmm.language_model.lm_head.weight[[model.prompter.turn_end, first]] = rows
    assert model.answer(encoded, questions, 4)[1] == ""


def test_there_is_no_image_to_text_loss() -> None:
    model = tiny_model()
    chosen = examples(model, ["what colour is the cat?\nred"])
    with pytest.raises(ValueError, match=r"lambda_i2t to 0"):
        model.collate("image_to_text", chosen)
    batch = model.collate("reconstruction", examples(model, ["the cat"]))
    with pytest.raises(ValueError, match="no image_to_text loss"):
        model.draw("image_to_text", batch, [0])
    with pytest.raises(ValueError, match="no image_to_text loss"):
        model.loss("image_to_text", batch, {})


def test_bad_inputs_are_named() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"'key-1'.*'zebra'"):
        model.collate("text_to_image", examples(model, ["a cat", "a zebra"]))
    with pytest.raises(ValueError, match=r"'key-0': the prompt has \d+ ids.*max_prompt=40"):
        model.collate("reconstruction", examples(model, ["the image " * 20]))
    with pytest.raises(ValueError, match=r"prompt 1: .*max_prompt=40"):
        model.generate(["a cat", "a cat " * 40], [1, 2], SAMPLING)
    with pytest.raises(ValueError, match=r"'key-0'.*<IMG_CONTEXT>.*remove"):
        model.collate("reconstruction", examples(model, ["the <IMG_CONTEXT> cat"]))
    with pytest.raises(ValueError, match=r"shape \[1, 3, 16, 32\], expected \[B, 3, 32, 32\]"):
        model.encode(pictures(1)[:, :, :16])
    with pytest.raises(ValueError, match="without a tokenizer"):
        OpenUniModel(model.config).generate(["a cat"], [0], SAMPLING)


def test_long_captions_are_cut_in_training_as_published() -> None:
    model = tiny_model(max_caption=12)
    batch = model.collate("text_to_image", examples(model, ["a red cat and two blue dogs and a cat", "a cat"]))
    assert batch["mask"].sum(dim=1).tolist() == [12, 12]
    longer = tiny_model(max_caption=24)
    whole = longer.collate("text_to_image", examples(longer, ["a red cat and two blue dogs and a cat"]))
    assert torch.equal(whole["input_ids"][0, :12], batch["input_ids"][0, :12])
