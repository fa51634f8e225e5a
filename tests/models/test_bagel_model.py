from collections.abc import Sequence

import pytest
import torch
from bagel_tiny import examples, mixed_examples, pictures, tiny_model
from torch import Tensor
from torch.nn import functional

from reca.config import SamplingConfig
from reca.models.bagel import files
from reca.models.bagel.config import VisionSizes
from reca.models.bagel.images import normalised
from reca.models.bagel.model import BagelModel
from reca.models.bagel.vision import to_patches
from reca.models.base import Batch, Draws, Example, LossTerm, Task

DRAWN: list[Task] = ["reconstruction", "text_to_image"]
TEXTS: dict[Task, list[str]] = {
    "reconstruction": ["describe the image", "describe the image in detail", "the cat", "the red cat"],
    "text_to_image": ["a red cat", "two blue dogs and a cat", "", "a cat"],
    "image_to_text": ["what colour is the cat?\nred", "is the cat blue?\nblue and red", "what?\na dogs", "the?\na"],
}
TASKS = list(TEXTS)


def chosen(model: BagelModel, task: Task, rows: Sequence[int], mixed: bool = False) -> list[Example]:
    every = mixed_examples(model, TEXTS[task]) if mixed else examples(model, TEXTS[task])
    return [every[row] for row in rows]


def losses(model: BagelModel, task: Task, rows: Sequence[int], mixed: bool = False) -> LossTerm:
    batch = model.collate(task, chosen(model, task, rows, mixed))
    return model.loss(task, batch, model.draw(task, batch, [100 + row for row in rows]))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_losses_add_up_over_any_split_of_a_batch(task: Task, mixed: bool) -> None:
    model = tiny_model(text_dropout=0.5)
    with torch.set_grad_enabled(task != "image_to_text"):
        whole = losses(model, task, [0, 1, 2, 3], mixed)
        parts = [losses(model, task, [0], mixed), losses(model, task, [1, 2, 3], mixed)]
        alone = [losses(model, task, [row], mixed) for row in range(4)]
    for pieces in (parts, alone):
        torch.testing.assert_close(whole.total, torch.stack([each.total for each in pieces]).sum())
        assert whole.count == torch.stack([each.count for each in pieces]).sum()
    assert whole.total.dtype == whole.count.dtype == torch.float32


def test_gradients_of_a_mixed_pack_are_the_sum_of_gradients_one_by_one() -> None:
    model = tiny_model().train()
    losses(model, "reconstruction", [0, 1, 2, 3], mixed=True).total.backward()
    together = {name: value.grad.clone() for name, value in model.trainable().items() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    for row in range(4):
        losses(model, "reconstruction", [row], mixed=True).total.backward()
    assert set(together) == set(model.trainable())
    for name, parameter in model.trainable().items():
        torch.testing.assert_close(together[name], parameter.grad, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("task", DRAWN)
def test_the_loss_counts_latent_tokens_and_no_filling(task: Task) -> None:
    model = tiny_model()
    assert losses(model, task, [0, 1]).count == 8
    assert losses(model, task, [0, 1, 2, 3], mixed=True).count == 6 + 1 + 6 + 9


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("mixed", [False, True])
def test_draws_depend_on_the_seed_of_the_example_only(task: Task, mixed: bool) -> None:
    model = tiny_model()
    whole = model.draw(task, model.collate(task, chosen(model, task, [0, 1, 2], mixed)), [7, 8, 9])
    alone = model.draw(task, model.collate(task, chosen(model, task, [1], mixed)), [8])
    assert set(whole) == set(alone)
    assert set(whole) == (set() if task == "image_to_text" else {"text_drop", "timestep", "noise", "posterior"})
    for name, value in alone.items():
        inside = tuple(slice(size) for size in value.shape[1:])
        assert torch.equal(whole[name][1][inside], value[0])
        assert whole[name][1].count_nonzero() == value[0].count_nonzero()


@pytest.mark.parametrize("task", DRAWN)
def test_losses_are_pure_and_fall_when_one_batch_is_overfitted(task: Task) -> None:
    model = tiny_model().train()
    batch = model.collate(task, examples(model, TEXTS[task]))
    draws = model.draw(task, batch, [1, 2, 3, 4])
    first = model.loss(task, batch, draws).mean
    assert torch.equal(first, model.loss(task, batch, draws).mean)
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        model.loss(task, batch, draws).mean.backward()
        optimizer.step()
    assert model.loss(task, batch, draws).mean < 0.5 * first


def test_understanding_stays_frozen_to_the_bit_under_weight_decay() -> None:
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-2, weight_decay=0.1)
    (losses(model, "reconstruction", [0, 1]).mean + losses(model, "text_to_image", [0, 1]).mean).backward()
    optimizer.step()
    wanted = {f"network.{name}" for name, value in model.network.named_parameters() if value.requires_grad}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == wanted
    assert {files.network_name(name.removeprefix("network.")) for name in changed} == set(model.trainable())
    assert all(value.grad is None for value in model.parameters() if not value.requires_grad)
    assert len(optimizer.state) == len(model.trainable())


def test_no_gradient_passes_through_understanding_tokens() -> None:
    """The last layer's latent tokens reach the loss directly; earlier ones also do through what marks read of them."""
    gradients: list[dict[str, Tensor | None]] = []
    for frozen in (True, False):
        model = tiny_model(freeze_understanding=frozen).train()
        losses(model, "reconstruction", [0, 1]).total.backward()
        gradients.append({name: value.grad for name, value in model.trainable().items()})
    held, free = gradients
    assert free["language_model.model.embed_tokens.weight"] is not None
    assert not any(name.startswith(("vit_model.", "vit_pos_embed.", "latent_pos_embed.")) for name in free)
    first = "language_model.model.layers.0.self_attn.v_proj_moe_gen.weight"
    last = "language_model.model.layers.1.mlp_moe_gen.down_proj.weight"
    torch.testing.assert_close(held[last], free[last])
    difference = held[first] - free[first]  # pyright: ignore[reportOptionalOperand]
    assert difference.abs().max() > 1e-3


def test_recomputing_activations_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(checkpointing=checkpointing).train()
        losses(model, "reconstruction", [0, 1]).total.backward()
        gradients.append([value.grad for value in model.trainable().values()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_bfloat16_autocast_gives_nearly_the_same_loss() -> None:
    model = tiny_model()
    exact = losses(model, "reconstruction", [0, 1]).mean
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = losses(model, "reconstruction", [0, 1]).mean
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.0)


def batch_and_draws(model: BagelModel, task: Task, rows: list[int]) -> tuple[Batch, Draws]:
    batch = model.collate(task, chosen(model, task, rows))
    return batch, model.draw(task, batch, [100 + row for row in rows])


def test_texts_are_dropped_below_the_configured_draw_only() -> None:
    model = tiny_model()
    batch, draws = batch_and_draws(model, "reconstruction", [0, 1])
    other = {**batch, "text": batch["text"].flip(1)}
    values = {
        drop: [
            model.loss("reconstruction", each, {**draws, "text_drop": torch.full((2,), drop)}).total for each in both
        ]
        for drop, both in {0.05: (batch, other), 0.1: (batch, other)}.items()
    }
    assert values[0.05][0] == values[0.05][1]
    assert values[0.1][0] != values[0.1][1]
    assert values[0.1][0] != values[0.05][0]


def test_latents_are_drawn_from_the_posterior() -> None:
    model = tiny_model()
    batch, draws = batch_and_draws(model, "text_to_image", [0, 1])
    shifted = {**batch, "latent_mean": batch["latent_mean"] + batch["latent_std"] * draws["posterior"]}
    fixed = {**draws, "posterior": torch.zeros_like(draws["posterior"])}
    one, other = (model.loss("text_to_image", *pair).total for pair in ((batch, draws), (shifted, fixed)))
    torch.testing.assert_close(one, other)
    assert not torch.isclose(one, model.loss("text_to_image", batch, fixed).total)


def test_image_to_text_needs_an_open_understanding_side() -> None:
    model = tiny_model()
    batch = model.collate("image_to_text", examples(model, TEXTS["image_to_text"]))
    with pytest.raises(ValueError, match=r"frozen.*lambda_i2t=0"):
        model.loss("image_to_text", batch, {})
    with torch.no_grad():
        frozen = model.loss("image_to_text", batch, {})
    free = tiny_model(freeze_understanding=False).train()
    term = free.loss("image_to_text", batch, {})
    assert torch.equal(term.total, frozen.total)
    assert term.count == 2 + 4 + 3 + 2
    term.mean.backward()
    silent = {name for name, value in free.trainable().items() if value.grad is None or not value.grad.any()}
    assert silent == set(files.generation_side(free.trainable()))


def test_a_connector_set_to_learn_opens_the_understanding_side() -> None:
    model = tiny_model()
    assert model.understanding_frozen
    batch = model.collate("image_to_text", examples(model, TEXTS["image_to_text"]))
    opened = (model.network.connector, model.network.language_model.lm_head, model.network.language_model.model.norm)
    for module in opened:
        module.requires_grad_(True)
    model.loss("image_to_text", batch, {}).mean.backward()
    assert all(parameter.grad is not None for module in opened for parameter in module.parameters())


def test_image_to_text_is_the_cross_entropy_of_answer_and_end_mark() -> None:
    model = tiny_model()
    batch = model.collate("image_to_text", examples(model, TEXTS["image_to_text"][:1]))
    assert model.collator is not None
    marks, answer = model.collator.marks, int(batch["answer"][0, 0])
    with torch.no_grad():
        reader = model.reader
        context = reader.text(reader.seen(reader.empty(1), batch["features"]), batch["text"].tolist())
        context, first = reader.tokens(context, [[marks.begin]])
        _, second = reader.tokens(context, [[answer]])
        expected = functional.cross_entropy(torch.cat([first, second]), torch.tensor([answer, marks.end]))
        torch.testing.assert_close(model.loss("image_to_text", batch, {}).mean, expected)


def test_encode_gives_moments_and_features_and_wants_fitted_pictures() -> None:
    model = tiny_model()
    encoded = model.encode(pictures(2))
    shapes = {name: tuple(value.shape) for name, value in encoded.items()}
    assert shapes == {"latent_mean": (2, 4, 4, 4), "latent_std": (2, 4, 4, 4), "features": (2, 2, 2, 16)}
    assert all(value.dtype == torch.float32 for value in encoded.values())
    assert (encoded["latent_std"] > 0).all()
    again = model.encode(pictures(2)[1:])
    torch.testing.assert_close(again["features"][0], encoded["features"][1])
    with pytest.raises(ValueError, match=r"shape \[1, 3, 16, 16\], expected \[B, 3, 32, 32\]"):
        model.encode(pictures(1, size=(16, 16)))


def test_positions_of_understanding_tokens_count_by_their_own_table() -> None:
    tower = VisionSizes(16, 32, 2, 2, image_size=40, patch_size=8)
    model, pixels = tiny_model(max_seen_size=3, vision=tower), pictures(1, size=(16, 16))
    vit = model.network.vit_model
    assert vit.vision_model.embeddings.position_embedding.weight.shape == (25, 16)
    assert model.network.vit_pos_embed.pos_embed.shape == (9, 32)
    with torch.no_grad():
        expected = vit(to_patches(normalised(pixels), 8), torch.tensor([0, 1, 3, 4]))
        torch.testing.assert_close(model.features(pixels).flatten(1, 2), expected)
    (example,) = examples(model, ["a cat"])
    batch = model.collate("reconstruction", [example])
    layout, _ = model.packed_inputs("reconstruction", batch, model.draw("reconstruction", batch, [0]))
    assert layout.seen_positions.tolist() == [0, 1, 3, 4]


def test_batches_name_the_sample_that_does_not_fit() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"'key-1'.*'zebra'"):
        model.collate("text_to_image", examples(model, ["a cat", "a zebra"]))
    with pytest.raises(ValueError, match=r"'key-0'.*62 text and 12 picture tokens.*holds 48"):
        model.collate("reconstruction", examples(model, ["the image " * 30]))
    with pytest.raises(ValueError, match=r"'key-0'.*newline"):
        model.collate("image_to_text", examples(model, ["what colour is the cat?"]))
    with pytest.raises(ValueError, match=r"prompt 0.*holds 48"):
        model.generate(["red " * 50], [0], SamplingConfig(steps=1))


def test_a_model_without_tokenizer_says_so() -> None:
    with pytest.raises(ValueError, match="without a tokenizer"):
        BagelModel(tiny_model().config).generate(["a cat"], [0], SamplingConfig())
