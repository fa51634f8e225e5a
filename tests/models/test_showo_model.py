from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from showo_tiny import examples, tiny_model
from torch import Tensor
from torch.nn import functional

from reca.config import SamplingConfig
from reca.models.base import LossTerm, Task
from reca.models.losses import IGNORED
from reca.models.showo import sequences
from reca.models.showo.decoding import Layout
from reca.models.showo.model import ShowoModel

SAMPLING = SamplingConfig(guidance=2.0, steps=4, temperature=1.0)
TEXTS: dict[Task, list[str]] = {
    "reconstruction": ["describe the image", "describe the image in detail", "the cat"],
    "text_to_image": ["a red cat", "two blue dogs and a cat", ""],
    "image_to_text": ["what colour is the cat?\nred", "is the cat blue?\nblue and red", "what is the cat?\na dogs"],
}
TASKS = list(TEXTS)


def losses(model: ShowoModel, task: Task, rows: Sequence[int]) -> LossTerm:
    chosen = [examples(model, TEXTS[task])[row] for row in rows]
    batch = model.collate(task, chosen)
    return model.loss(task, batch, model.draw(task, batch, [100 + row for row in rows]))


@pytest.mark.parametrize("condition", ["clip", "vq"])
@pytest.mark.parametrize("task", TASKS)
def test_losses_add_up_over_any_split_of_a_batch(task: Task, condition: str) -> None:
    model = tiny_model(condition=condition)
    whole = losses(model, task, [0, 1, 2])
    parts = [losses(model, task, [0]), losses(model, task, [1, 2])]
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)
    assert whole.count == parts[0].count + parts[1].count
    assert whole.total.dtype == whole.count.dtype == torch.float32


def full_loss(model: ShowoModel, layout: Layout, labels: Tensor) -> Tensor:
    logits = model.showo.lm_head(model.states(layout))
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def test_text_to_image_counts_the_picture_and_its_two_marks() -> None:
    model = tiny_model()
    batch = model.collate("text_to_image", examples(model, TEXTS["text_to_image"]))
    draws = model.draw("text_to_image", batch, [1, 2, 3])
    tokens, layout = model.drawing(batch, draws)
    labels = tokens.labels.clone()
    labels[:, : model.config.max_text + 1] = IGNORED
    torch.testing.assert_close(model.loss("text_to_image", batch, draws).mean, full_loss(model, layout, labels))


def test_image_to_text_predicts_answer_and_end_only() -> None:
    model = tiny_model()
    batch = model.collate("image_to_text", examples(model, TEXTS["image_to_text"]))
    assert (batch["labels"] != IGNORED).sum(dim=1).tolist() == [2, 4, 3]
    tokens, layout = model.understanding(batch)
    shifted = functional.pad(tokens.labels[:, 1:], (0, 1), value=IGNORED)
    torch.testing.assert_close(model.loss("image_to_text", batch, {}).mean, full_loss(model, layout, shifted))


def test_captions_are_dropped_below_the_configured_draw_only() -> None:
    model = tiny_model()
    batch = model.collate("text_to_image", examples(model, TEXTS["text_to_image"]))
    draws = model.draw("text_to_image", batch, [1, 2, 3])
    draws["caption_drop"] = torch.tensor([0.05, 0.1, 0.5])
    ids = model.drawing(batch, draws)[0].ids[:, : model.config.max_text + 1]
    empty = sequences.caption_block([[]], model.vocabulary, model.config.max_text)
    assert torch.equal(ids[:1], empty)
    assert torch.equal(ids[1:], batch["prefix"][1:])


@pytest.mark.parametrize("task", TASKS)
def test_draws_depend_on_the_seed_of_the_example_only(task: Task) -> None:
    model = tiny_model()
    chosen = examples(model, TEXTS[task])
    whole = model.draw(task, model.collate(task, chosen), [7, 8, 9])
    alone = model.draw(task, model.collate(task, chosen[1:2]), [8])
    assert set(whole) == set(alone)
    assert all(torch.equal(whole[name][1:2], alone[name]) for name in whole)
    assert (
        set(whole)
        == {
            "reconstruction": {"mask_timestep", "mask_order"},
            "text_to_image": {"mask_timestep", "mask_order", "caption_drop"},
            "image_to_text": set(),
        }[task]
    )


@pytest.mark.parametrize("through_inputs", [False, True])
def test_reconstruction_trains_projector_only_when_asked_to(through_inputs: bool) -> None:
    model = tiny_model(condition_gradient=through_inputs).train()
    losses(model, "reconstruction", [0, 1]).mean.backward()
    silent = {name for name, value in model.trainable().items() if value.grad is None}
    inputs = {name for name in model.trainable() if name.startswith("mm_projector.") or "embed_tokens" in name}
    assert silent == (set() if through_inputs else inputs)


def test_only_language_model_and_projector_train() -> None:
    model = tiny_model().train()
    free = {name for name, value in model.named_parameters() if value.requires_grad}
    assert free == set(model.trainable())
    assert all(name.startswith(("showo.", "mm_projector.")) for name in free)
    assert not model.clip.training
    assert not model.magvit.training
    assert model.showo.training


@pytest.mark.parametrize("condition", ["clip", "vq"])
def test_picture_logits_with_a_cached_front_equal_a_full_pass(condition: str) -> None:
    model = tiny_model(condition=condition)
    batch = model.collate("reconstruction", examples(model, TEXTS["reconstruction"]))
    draws = model.draw("reconstruction", batch, [1, 2, 3])
    tokens, layout = model.reconstruction(batch, draws)
    hidden = tokens.ids[:, -17:-1] == model.vocabulary.mask
    first, last = model.vocabulary.image_offset, model.vocabulary.mask
    with torch.no_grad():
        logits = model.guided_logits(layout, 0.0)
        found = [logits(batch["codes"], mask) for mask in (torch.ones_like(hidden), hidden)][1]
        expected = model.showo.lm_head(model.states(layout))[:, -17:-1, first:last]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_guidance_zero_is_the_conditional_branch_and_one_is_the_stated_mixture() -> None:
    model = tiny_model()
    batch = model.collate("text_to_image", examples(model, TEXTS["text_to_image"]))
    draws = {**model.draw("text_to_image", batch, [1, 2, 3]), "caption_drop": torch.ones(3)}
    _, layout = model.drawing(batch, draws)
    _, bare = model.drawing(batch, {**draws, "caption_drop": torch.zeros(3)})
    hidden = torch.ones(3, 16, dtype=torch.bool)
    with torch.no_grad():
        conditional, empty, mixed = (
            model.guided_logits(form, guidance)(batch["codes"], hidden)
            for form, guidance in ((layout, 0.0), (bare, 0.0), (layout, 1.0))
        )
    torch.testing.assert_close(mixed, 2 * conditional - empty, atol=1e-5, rtol=1e-5)
    assert (conditional - empty).abs().max() > 1e-3


def test_pictures_do_not_depend_on_their_batch() -> None:
    model = tiny_model()
    prompts = ["a red cat", "two blue dogs", "a cat and a red cat"]
    together = model.generate(prompts, [1, 2, 3], SAMPLING)
    assert together.shape == (3, 3, 16, 16)
    assert together.dtype == torch.uint8
    assert torch.equal(model.generate(prompts[1:2], [2], SAMPLING)[0], together[1])
    assert not torch.equal(model.generate(prompts[:1], [9], SAMPLING)[0], together[0])


@pytest.mark.parametrize("changes", [{}, {"condition": "vq"}, {"clip_normalize_understanding": True}])
def test_reconstruction_and_answers_from_every_kind_of_encoding(changes: dict[str, object]) -> None:
    model = tiny_model(**changes)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encoded = model.encode(pixels)
    drawn = model.reconstruct(encoded, ["the image", "describe the image"], [1, 2], SAMPLING)
    assert drawn.shape == pixels.shape
    questions = ["what colour is the cat?", "is the cat red and blue and two?"]
    answers = model.answer(encoded, questions)
    one = {name: value[1:] for name, value in encoded.items()}
    assert model.answer(one, questions[1:]) == answers[1:]


def test_answers_equal_decoding_without_cache_and_stop_at_the_end_mark() -> None:
    model = tiny_model()
    encoded = model.encode(torch.full((1, 3, 16, 16), 90, dtype=torch.uint8))
    assert model.collator is not None
    batch, lengths = model.collator.questions(encoded, ["what colour is the cat?"], 8)
    naive: list[int] = []
    with torch.no_grad():
        for _ in range(4):
            text = torch.cat([batch["text"], torch.tensor([naive], dtype=torch.long)], dim=1)
            _, layout = model.understanding({**batch, "text": text, "labels": text})
            naive.append(int(model.showo.lm_head(model.states(layout)[:, -1]).argmax()))
    assert int(lengths) + len(naive) - 1 == layout.mask.shape[-1]
    assert model.answer(encoded, ["what colour is the cat?"], 4) == [model.collator.answer(naive)]
    with torch.no_grad():
        model.showo.lm_head.bias[model.vocabulary.end_of_text] = 1e4
    assert model.answer(encoded, ["what colour is the cat?"], 4) == [""]


def test_encode_gives_what_the_configuration_asks_for() -> None:
    pixels = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    kinds = {
        ("clip", False): {"codes", "features"},
        ("clip", True): {"codes", "features", "understanding_features"},
        ("vq", False): {"codes", "condition_codes", "understanding_features"},
        ("vq", True): {"codes", "condition_codes", "understanding_features"},
    }
    for (condition, normalize), names in kinds.items():
        encoded = tiny_model(condition=condition, clip_normalize_understanding=normalize).encode(pixels)
        assert set(encoded) == names
        assert encoded["codes"].shape == (2, 16)
        assert encoded["codes"].dtype == torch.int32
        for name in names - {"codes", "condition_codes"}:
            assert encoded[name].shape == (2, 4, 16)
    assert encoded["condition_codes"].shape == (2, 4)


def test_batches_name_the_sample_that_does_not_fit() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"'key-1'.*'zebra'"):
        model.collate("text_to_image", examples(model, ["a cat", "a zebra"]))
    with pytest.raises(ValueError, match=r"'key-0'.*prefix_length"):
        model.collate("reconstruction", examples(model, ["the image " * 10]))
    with pytest.raises(ValueError, match=r"'key-0'.*newline"):
        model.collate("image_to_text", examples(model, ["what colour is the cat?"]))
    with pytest.raises(ValueError, match=r"'key-0'.*context"):
        model.collate("image_to_text", examples(model, ["the cat?\n" + "red " * 60]))


def test_a_model_without_tokenizer_says_so() -> None:
    with pytest.raises(ValueError, match="without a tokenizer"):
        ShowoModel(tiny_model().config).generate(["a cat"], [0], SAMPLING)


def test_grouped_key_value_heads_train() -> None:
    model = tiny_model(phi=replace(tiny_model().config.phi, kv_heads=2)).train()
    assert model.showo.model.layers[0].self_attn.k_proj.weight.shape == (16, 32)
    losses(model, "text_to_image", [0, 1]).mean.backward()
