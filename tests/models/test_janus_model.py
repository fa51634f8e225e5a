from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from janus_tiny import examples, noise, tiny_model
from torch.nn import functional

from reca.config import SamplingConfig
from reca.models.base import LossTerm, Task
from reca.models.finite import Watch
from reca.models.janus.config import janus_pro_1b, janus_pro_7b
from reca.models.janus.decoding import Prefix, seeded_draws, stacked, states
from reca.models.janus.model import CAPTION_DROPOUT, JanusProModel
from reca.models.losses import IGNORED

SAMPLING = SamplingConfig(guidance=2.0, temperature=1.0)
TEXTS: dict[Task, list[str]] = {
    "reconstruction": ["describe the image", "describe the image in detail", "the cat"],
    "text_to_image": ["a red cat", "two blue dogs and a cat", ""],
    "image_to_text": ["what colour is the cat?\nred", "is the cat blue?\nblue and red", "what is the cat?\na dogs"],
}
TASKS = list(TEXTS)


@pytest.fixture(scope="module")
def model() -> JanusProModel:
    return tiny_model()


def losses(model: JanusProModel, task: Task, rows: Sequence[int]) -> LossTerm:
    chosen = [examples(model, TEXTS[task])[row] for row in rows]
    batch = model.collate(task, chosen)
    return model.loss(task, batch, model.draw(task, batch, [100 + row for row in rows]))


@pytest.mark.parametrize("task", TASKS)
def test_losses_add_up_over_any_split_of_a_batch(model: JanusProModel, task: Task) -> None:
    whole = losses(model, task, [0, 1, 2])
    parts = [losses(model, task, [0]), losses(model, task, [1, 2])]
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total, atol=1e-5, rtol=1e-5)
    assert whole.count == parts[0].count + parts[1].count
    assert whole.total.dtype == whole.count.dtype == torch.float32


@pytest.mark.parametrize("task", TASKS)
def test_losses_are_pure(model: JanusProModel, task: Task) -> None:
    assert torch.equal(losses(model, task, [0, 1]).total, losses(model, task, [0, 1]).total)


def test_batches_have_the_stated_shapes(model: JanusProModel) -> None:
    marks = model._marks  # pyright: ignore[reportPrivateUsage]
    for task in TASKS:
        batch = model.collate(task, examples(model, TEXTS[task]))
        rows, width = batch["ids"].shape
        assert (rows, width) == tuple(batch["mask"].shape)
        assert torch.equal(batch["mask"], batch["ids"] != marks.pad)
        assert bool(batch["mask"][:, -1].all())
        assert all(row[row != marks.pad][0] == marks.start for row in batch["ids"])
        if task == "image_to_text":
            assert batch["labels"].shape == batch["ids"].shape
        else:
            assert batch["codes"].shape == (3, 16)
            assert bool((batch["ids"][:, -1] == marks.begin_image).all())
        if task != "text_to_image":
            assert batch["features"].shape == (3, 16, 24)
            assert (batch["ids"] == marks.image).sum(dim=1).tolist() == [16] * 3


def test_image_comes_before_text_and_text_before_the_picture(model: JanusProModel) -> None:
    marks = model._marks  # pyright: ignore[reportPrivateUsage]
    row = model.collate("reconstruction", examples(model, ["describe the image"]))["ids"][0].tolist()
    text = model.collator.tokenizer.convert_tokens_to_ids("describe")  # pyright: ignore[reportOptionalMemberAccess]
    order = [row.index(mark) for mark in (marks.start, marks.begin_image, marks.image, marks.end_image, text)]
    assert order == sorted(order)
    assert row[order[1] + 1 : order[3]] == [marks.image] * 16
    assert row.count(marks.begin_image) == 2


def test_image_to_text_predicts_answer_and_end_only(model: JanusProModel) -> None:
    batch = model.collate("image_to_text", examples(model, TEXTS["image_to_text"]))
    assert (batch["labels"] != IGNORED).sum(dim=1).tolist() == [2, 4, 3]
    labelled = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][labelled], batch["ids"][labelled])


def test_captions_are_dropped_below_the_published_rate_only(model: JanusProModel) -> None:
    batch = model.collate("text_to_image", examples(model, TEXTS["text_to_image"]))
    drop = torch.tensor([CAPTION_DROPOUT / 2, CAPTION_DROPOUT, 0.9])
    bare = torch.where(torch.tensor([[True], [False], [False]]), model.without_text(batch), batch["ids"])
    kept = model.loss("text_to_image", {**batch, "ids": bare}, {"caption_drop": torch.ones(3)})
    assert torch.equal(model.loss("text_to_image", batch, {"caption_drop": drop}).total, kept.total)
    assert not torch.equal(bare[0], batch["ids"][0])


def test_a_dropped_caption_keeps_start_begin_of_image_and_its_length(model: JanusProModel) -> None:
    batch = model.collate("text_to_image", examples(model, TEXTS["text_to_image"]))
    marks = model._marks  # pyright: ignore[reportPrivateUsage]
    for row, mask in zip(model.without_text(batch), batch["mask"], strict=True):
        seen = row[mask].tolist()
        assert seen == [marks.start, *[marks.pad] * (len(seen) - 2), marks.begin_image]


@pytest.mark.parametrize("task", TASKS)
def test_draws_depend_on_the_seed_of_the_example_only(model: JanusProModel, task: Task) -> None:
    chosen = examples(model, TEXTS[task])
    whole = model.draw(task, model.collate(task, chosen), [7, 8, 9])
    alone = model.draw(task, model.collate(task, chosen[1:2]), [8])
    assert set(whole) == set(alone) == ({"caption_drop"} if task == "text_to_image" else set())
    assert all(torch.equal(whole[name][1:2], alone[name]) for name in whole)


def test_every_trained_part_gets_a_gradient_and_frozen_ones_none() -> None:
    model = tiny_model().train()
    for task in TASKS:
        losses(model, task, [0, 1]).mean.backward()
    trained = model.trainable()
    assert {name for name, value in model.janus.named_parameters() if value.requires_grad} == set(trained)
    assert all(value.grad is not None and bool(value.grad.any()) for value in trained.values())
    frozen = [value for name, value in model.janus.named_parameters() if name not in trained]
    assert frozen
    assert all(value.grad is None for value in frozen)
    parts = {name.split(".")[1] for name in trained if name.startswith("model.")}
    assert parts == {"language_model", "aligner", "generation_embeddings", "generation_aligner", "generation_head"}
    assert not model.janus.model.vision_model.training
    assert not model.janus.model.vqmodel.training
    assert model.language.training


def test_overfitting_lowers_every_loss_and_leaves_frozen_parts_alone() -> None:
    model = tiny_model().train()
    work = {task: model.collate(task, examples(model, TEXTS[task])) for task in TASKS}
    draws = {task: model.draw(task, batch, [1, 2, 3]) for task, batch in work.items()}
    before = {name: value.clone() for name, value in model.janus.named_parameters() if name not in model.trainable()}
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=3e-3)
    history: list[dict[Task, float]] = []
    for _ in range(30):
        terms = model({task: (work[task], draws[task]) for task in TASKS})
        history.append({task: float(term.mean.detach()) for task, term in terms.items()})
        optimizer.zero_grad()
        sum(term.mean for term in terms.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
        optimizer.step()
    assert all(history[-1][task] < 0.5 * history[0][task] for task in TASKS)
    after = dict(model.janus.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_pictures_do_not_depend_on_their_batch(model: JanusProModel, guidance: float) -> None:
    sampling = SamplingConfig(guidance=guidance, temperature=1.0)
    prompts = ["a red cat", "two blue dogs", "a cat and a red cat"]
    together = model.generate(prompts, [1, 2, 3], sampling)
    assert together.shape == (3, 3, 16, 16)
    assert together.dtype == torch.uint8
    assert torch.equal(model.generate(prompts[1:2], [2], sampling)[0], together[1])
    assert not torch.equal(model.generate(prompts[:1], [9], sampling)[0], together[0])


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_reconstructions_depend_on_picture_prompt_and_seed_only(model: JanusProModel, guidance: float) -> None:
    sampling = SamplingConfig(guidance=guidance, temperature=1.0)
    encoded = model.encode(torch.cat([noise(1), torch.full((1, 3, 16, 16), 200, dtype=torch.uint8)]))
    prompts = ["the image", "describe the image in detail"]
    together = model.reconstruct(encoded, prompts, [1, 2], sampling)
    one = {name: value[:1] for name, value in encoded.items()}
    other = {name: value[1:] for name, value in encoded.items()}
    assert torch.equal(model.reconstruct(one, prompts[:1], [1], sampling)[0], together[0])
    assert not torch.equal(model.reconstruct(other, prompts[:1], [1], sampling)[0], together[0])


def test_reconstruction_sees_the_features_and_not_the_codes(model: JanusProModel) -> None:
    encoded = model.encode(noise(1))
    drawn = model.reconstruct(encoded, ["the image"], [1], SAMPLING)
    shuffled = {**encoded, "codes": encoded["codes"].flip(1)}
    assert torch.equal(model.reconstruct(shuffled, ["the image"], [1], SAMPLING), drawn)
    blind = {**encoded, "features": torch.zeros_like(encoded["features"])}
    assert not torch.equal(model.reconstruct(blind, ["the image"], [1], SAMPLING), drawn)


def test_stepwise_drawing_sees_what_teacher_forcing_sees(model: JanusProModel) -> None:
    """Greedy codes, fed back as targets, are the most probable ones at every position."""
    batch = model.collate("reconstruction", examples(model, TEXTS["reconstruction"]))
    with torch.no_grad():
        codes = model.drawn_codes(model.prefix(batch), batch, seeded_draws([1, 2, 3], 32), 0.0, 0.0, Watch("janus"))
        logits = model.code_logits(model.prefix(batch), codes)
    assert torch.equal(logits.argmax(dim=-1), codes)
    assert codes.unique().numel() > 2


def test_guidance_of_a_reconstruction_is_against_the_dropped_template(model: JanusProModel) -> None:
    """The first code's guided distribution, put together by hand."""
    assert model.collator is not None
    prompts = ["describe the image", "the cat"]
    encoded = model.encode(noise(2))
    batch = {**model.collator.templates(prompts, prompts), "features": encoded["features"]}
    captions = model.collator.captions(prompts, prompts)
    bare = Prefix(model.language.embed_tokens(model.without_text(captions)), captions["mask"])
    head = model.janus.model.generation_head
    with torch.no_grad():
        first, null = (head(states(model.language, prefix)[:, -1]) for prefix in (model.prefix(batch), bare))
        expected = (3 * first - 2 * null).argmax(dim=-1)
        draws = seeded_draws([1, 2], 32)
        found = model.drawn_codes(model.prefix(batch), captions, draws, 2.0, 0.0, Watch("janus"))[:, 0]
    assert torch.equal(found, expected)
    assert not torch.equal(first.argmax(dim=-1), expected)


def test_padding_on_the_left_changes_nothing(model: JanusProModel) -> None:
    batch = model.collate("text_to_image", examples(model, TEXTS["text_to_image"][:1]))
    prefix = model.prefix(batch)
    longer = Prefix(functional.pad(prefix.embeddings, (0, 0, 5, 0)), functional.pad(prefix.mask, (5, 0)))
    both = stacked(prefix, longer)
    torch.testing.assert_close(states(model.language, both)[0, 5:], states(model.language, prefix)[0])
    torch.testing.assert_close(states(model.language, both)[1, 5:], states(model.language, prefix)[0])


def test_answers_do_not_depend_on_their_batch_and_stop_at_the_end_mark() -> None:
    model = tiny_model()
    encoded = model.encode(noise(2))
    questions = ["what colour is the cat?", "is the cat red and blue and two?"]
    answers = model.answer(encoded, questions)
    one = {name: value[1:] for name, value in encoded.items()}
    assert model.answer(one, questions[1:]) == answers[1:]
    assert answers[0] != model.answer({**encoded, "features": -encoded["features"]}, questions)[0]
    assert model.collator is not None
    words = model.collator.tokenizer(answers[0], add_special_tokens=False)["input_ids"]
    second = next(number for number, word in enumerate(words) if word != words[0])
    model.collator.marks = replace(model.collator.marks, end=words[second])
    assert model.answer({name: value[:1] for name, value in encoded.items()}, questions[:1]) == [
        " ".join(answers[0].split()[:second])
    ]


def test_encode_gives_codes_and_features(model: JanusProModel) -> None:
    encoded = model.encode(noise(2))
    assert encoded["codes"].shape == (2, 16)
    assert encoded["codes"].dtype == torch.int32
    assert int(encoded["codes"].min()) >= 0
    assert int(encoded["codes"].max()) < 32
    assert encoded["features"].shape == (2, 16, 24)
    assert encoded["features"].dtype == torch.float32


def test_images_of_another_size_are_refused(model: JanusProModel) -> None:
    for side in (3, 32):
        with pytest.raises(ValueError, match=rf"shape \[1, 3, {side}, {side}\], expected \[B, 3, 16, 16\]"):
            model.encode(torch.zeros(1, 3, side, side, dtype=torch.uint8))


def test_batches_name_the_sample_that_does_not_fit(model: JanusProModel) -> None:
    with pytest.raises(ValueError, match=r"'key-1'.*'zebra'"):
        model.collate("text_to_image", examples(model, ["a cat", "a zebra"]))
    with pytest.raises(ValueError, match=r"'key-0'.*context holds 64"):
        model.collate("reconstruction", examples(model, ["the image " * 20]))
    with pytest.raises(ValueError, match=r"'key-0'.*newline"):
        model.collate("image_to_text", examples(model, ["what colour is the cat?"]))
    with pytest.raises(ValueError, match=r"'key-0'.*context"):
        model.collate("image_to_text", examples(model, ["the cat?\n" + "red " * 60]))
    with pytest.raises(ValueError, match=r"'key-0'.*<image_placeholder>"):
        model.collate("text_to_image", examples(model, ["a <image_placeholder> cat"]))
    with pytest.raises(ValueError, match=r"prompt 0.*context"):
        model.generate(["a cat " * 40], [1], SAMPLING)


def test_a_model_without_tokenizer_says_so() -> None:
    with pytest.raises(ValueError, match="without a tokenizer"):
        JanusProModel(tiny_model().config).generate(["a cat"], [0], SAMPLING)


def test_a_model_without_tokenizer_trains_on_ids() -> None:
    model = tiny_model()
    bare = JanusProModel(model.config)
    bare.load_state_dict(model.state_dict())
    batch = model.collate("reconstruction", examples(model, TEXTS["reconstruction"]))
    torch.testing.assert_close(
        bare.eval().loss("reconstruction", batch, {}).total, model.loss("reconstruction", batch, {}).total
    )


def test_real_models_have_the_published_shapes() -> None:
    published = {
        "1b": (janus_pro_1b(), 2_076_636_811, 2048, 24),
        "7b": (janus_pro_7b(), 7_407_773_323, 4096, 30),
    }
    for config, parameters, width, layers in published.values():
        with torch.device("meta"):
            model = JanusProModel(config)
        shapes = {name: tuple(value.shape) for name, value in model.janus.state_dict().items()}
        assert sum(value.numel() for value in model.parameters()) == parameters
        assert shapes["model.language_model.embed_tokens.weight"] == shapes["lm_head.weight"] == (102400, width)
        assert f"model.language_model.layers.{layers - 1}.mlp.down_proj.weight" in shapes
        assert f"model.language_model.layers.{layers}.mlp.down_proj.weight" not in shapes
        assert shapes["model.generation_embeddings.weight"] == (16384, 8)
        assert shapes["model.generation_head.vision_head.weight"] == (16384, width)
        assert shapes["model.aligner.fc1.weight"] == (width, 1024)
        assert shapes["model.vision_model.embeddings.position_embedding.weight"] == (576, 1024)
        assert model.geometry.size == 384
    language = {name: value for name, value in model.trainable().items() if "language_model" in name or "lm_" in name}
    # DeepSeek-LLM-7B, which Janus-Pro-7B starts from, is published with this number of parameters.
    assert sum(value.numel() for value in language.values()) == 6_910_365_696
