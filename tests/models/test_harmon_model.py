from collections.abc import Sequence

import pytest
import torch
from harmon_tiny import TASKS, TEXTS, all_draws, tiny_model, with_config, with_latents
from torch import Tensor
from torch.nn import functional

from reca.models.base import LossTerm, Task
from reca.models.harmon.model import HarmonModel
from reca.models.losses import IGNORED

DRAWING: list[Task] = ["reconstruction", "text_to_image"]


def losses(model: HarmonModel, task: Task, rows: Sequence[int]) -> LossTerm:
    chosen = with_latents(model, TEXTS[task])
    batch = model.collate(task, [chosen[row] for row in rows])
    return model.loss(task, batch, all_draws(model, task, batch, [100 + row for row in rows]))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_losses_add_up_over_any_split_of_a_batch(task: Task, training: bool) -> None:
    model = tiny_model().train(training)
    whole = losses(model, task, [0, 1, 2])
    parts = [losses(model, task, [0]), losses(model, task, [1, 2])]
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)
    assert whole.count == parts[0].count + parts[1].count
    assert whole.total.dtype == whole.count.dtype == torch.float32


@pytest.mark.parametrize("task", TASKS)
def test_a_loss_in_training_mode_is_a_function_of_its_draws(task: Task) -> None:
    model = tiny_model().train()
    batch = model.collate(task, with_latents(model, TEXTS[task]))
    draws = all_draws(model, task, batch, [1, 2, 3])
    torch.manual_seed(0)
    first, after = model.loss(task, batch, draws).total, torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(model.loss(task, batch, draws).total, first)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)
    others = {**draws, "dropout_seed": draws["dropout_seed"] + 1}
    assert not torch.equal(model.loss(task, batch, others).total, first)
    assert not torch.equal(model.eval().loss(task, batch, draws).total, first)
    assert torch.equal(model.loss(task, batch, others).total, model.loss(task, batch, draws).total)


@pytest.mark.parametrize("task", TASKS)
def test_draws_depend_on_the_seed_of_the_example_only(task: Task) -> None:
    model = tiny_model()
    chosen = with_latents(model, TEXTS[task])
    whole = model.draw(task, model.collate(task, chosen), [7, 8, 9])
    alone = model.draw(task, model.collate(task, chosen[1:2]), [8])
    drawing = {"text_drop", "order", "timestep", "noise"} if task != "image_to_text" else set()
    assert set(whole) == set(alone) == {"dropout_seed", *drawing}
    assert all(torch.equal(whole[name][1:2], alone[name]) for name in whole)
    if drawing:
        assert whole["order"].sort().values.tolist() == [list(range(16))] * 3
        assert whole["timestep"].shape == (3, 2, 16)
        assert whole["noise"].shape == (3, 2, 16, 4)


@pytest.mark.parametrize("task", DRAWING)
def test_only_hidden_tokens_count_and_how_many_is_shared(task: Task) -> None:
    model = tiny_model()
    batch = model.collate(task, with_latents(model, TEXTS[task]))
    rates = [model.draw_shared(task, seed)["mask_rate"] for seed in range(20)]
    assert all(0.7 <= float(rate) <= 1 for rate in rates)
    assert len({float(rate) for rate in rates}) == 20
    draws = {**model.draw(task, batch, [1, 2, 3]), "mask_rate": torch.tensor([0.7], dtype=torch.float64)}
    hidden, found = model.drawing(task, batch, draws)
    assert hidden.shape == (3, 12)  # ceil(16 * 0.7)
    assert torch.equal(hidden, draws["order"][:, :12].sort().values)
    assert model.loss(task, batch, draws).count == 3 * 2 * 12
    assert found.encoded.shape == (3, 3 + 4, 24)
    other = draws["noise"].scatter_add(
        2, draws["order"][:, None, 12:, None].expand(-1, 2, -1, 4), torch.ones(3, 2, 4, 4)
    )
    assert torch.equal(model.loss(task, batch, {**draws, "noise": other}).total, model.loss(task, batch, draws).total)


def test_a_fully_hidden_image_leaves_the_buffers() -> None:
    model = tiny_model()
    batch = model.collate("text_to_image", with_latents(model, TEXTS["text_to_image"]))
    draws = {**model.draw("text_to_image", batch, [1, 2, 3]), "mask_rate": torch.ones(1, dtype=torch.float64)}
    assert model.drawing("text_to_image", batch, draws)[1].encoded.shape == (3, 3, 24)
    assert model.loss("text_to_image", batch, draws).total.isfinite()


def test_dropped_text_leaves_the_picture_of_a_reconstruction() -> None:
    model = tiny_model()
    batch = model.collate("reconstruction", with_latents(model, TEXTS["reconstruction"]))
    draws = all_draws(model, "reconstruction", batch, [1, 2, 3])
    draws["text_drop"] = torch.tensor([0.05, 0.1, 0.5])
    _, found = model.drawing("reconstruction", batch, draws)
    real = found.sequence.mask.sum(dim=1) - 19 - found.embeddings.shape[1]
    texts = [batch["plain_mask"][0], batch["mask"][1], batch["mask"][2]]
    assert real.tolist() == [int(text.sum()) for text in texts]
    words = model.network.llm.model.embed_tokens(batch["plain_ids"][:1])
    torch.testing.assert_close(found.sequence.embeddings[:1, :3], words[:, :3])
    torch.testing.assert_close(found.sequence.embeddings[:1, 22:28], words[:, 3:9])
    picture = model.network.understand(batch["latents"], None).embeddings
    torch.testing.assert_close(found.sequence.embeddings[:, 3:22], picture)


def test_the_gradient_through_the_picture_is_scaled() -> None:
    model = tiny_model()
    batch = model.collate("reconstruction", with_latents(model, TEXTS["reconstruction"]))
    draws = all_draws(model, "reconstruction", batch, [1, 2, 3])
    found: list[Tensor] = []
    for scale in (0.0, 1.0, 0.1):
        model.zero_grad()
        with_config(model, grad_scale=scale).loss("reconstruction", batch, draws).mean.backward()
        gradient = model.network.proj_in[0].weight.grad
        assert gradient is not None
        found.append(gradient.clone())
    none, all_of_it, tenth = found
    torch.testing.assert_close(tenth, none + 0.1 * (all_of_it - none), atol=1e-7, rtol=1e-4)
    assert (all_of_it - none).norm() > 0.05 * none.norm()


def test_image_to_text_predicts_answer_and_end_only() -> None:
    model = tiny_model()
    batch = model.collate("image_to_text", with_latents(model, TEXTS["image_to_text"]))
    assert (batch["labels"] != IGNORED).sum(dim=1).tolist() == [2, 4, 3]
    sequence, labels = model.understanding(batch, {})
    logits = model.network.llm.lm_head(model.network.states(sequence))
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(model.loss("image_to_text", batch, {}).mean, expected)


def test_everything_but_autoencoder_and_class_table_trains() -> None:
    model = tiny_model().train()
    free = {name.removeprefix("network.") for name, value in model.named_parameters() if value.requires_grad}
    assert free == set(model.trainable())
    assert {name.split(".")[0] for name in free} == {"llm", "mar", "proj_in", "proj_out"}
    assert "mar.class_emb.weight" not in free
    assert not model.vae.training
    assert model.network.training
    for task in TASKS:
        losses(model, task, [0, 1, 2]).mean.backward()
    assert [name for name, value in model.trainable().items() if value.grad is None] == []


def test_frozen_parts_stay_bit_for_bit_and_the_rest_moves() -> None:
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for task in TASKS:
        losses(model, task, [0, 1, 2]).mean.backward()
    optimizer.step()
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert same == {name for name in before if name.startswith("vae.")} | {"network.mar.class_emb.weight"}


def test_over_fitting_one_batch_lowers_every_loss() -> None:
    model = tiny_model().train()
    work = {}
    for task in TASKS:
        batch = model.collate(task, with_latents(model, TEXTS[task]))
        work[task] = (batch, all_draws(model, task, batch, [1, 2, 3]))
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=5e-3)
    history: list[list[float]] = []
    for _ in range(25):
        terms = model(work)
        history.append([float(terms[task].mean.detach()) for task in TASKS])
        optimizer.zero_grad()
        torch.stack([term.mean for term in terms.values()]).sum().backward()
        optimizer.step()
    falls = [last / first for first, last in zip(history[0], history[-1], strict=True)]
    assert falls[0] < 0.9
    assert falls[1] < 0.9
    assert falls[2] < 0.3


@pytest.mark.parametrize("task", TASKS)
def test_gradient_checkpointing_changes_nothing(task: Task) -> None:
    found: list[dict[str, Tensor | None]] = []
    for recompute in (False, True):
        model = tiny_model(mar={"grad_checkpointing": recompute}).train()
        losses(model, task, [0, 1, 2]).mean.backward()
        found.append({name: value.grad for name, value in model.trainable().items()})
    torch.testing.assert_close(found[0], found[1])


def test_losses_are_finite_float32_under_bfloat16() -> None:
    model = tiny_model().train()
    exact = {task: losses(model, task, [0, 1, 2]) for task in TASKS}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = {task: losses(model, task, [0, 1, 2]) for task in TASKS}
    for task in TASKS:
        assert rough[task].total.dtype == torch.float32
        torch.testing.assert_close(rough[task].total, exact[task].total, rtol=0.1, atol=0)


def test_encode_gives_scaled_latents_and_refuses_other_sizes() -> None:
    model = tiny_model()
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents = model.encode(pixels)["latents"]
    assert latents.shape == (2, 4, 4, 4)
    assert latents.dtype == torch.float32
    torch.testing.assert_close(with_config(model, vae_scale=0.465).encode(pixels)["latents"], 2 * latents)
    for shape in ((2, 3, 8, 8), (2, 3, 2, 2), (2, 1, 16, 16)):
        with pytest.raises(ValueError, match=r"expected \[B, 3, 16, 16\]"):
            model.encode(torch.zeros(shape, dtype=torch.uint8))


def test_batches_name_the_sample_that_does_not_fit() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"'key-1'.*'zebra'"):
        model.collate("text_to_image", with_latents(model, ["a cat", "a zebra"]))
    with pytest.raises(ValueError, match=r"'key-0'.*max_text"):
        model.collate("reconstruction", with_latents(model, ["the image " * 10]))
    with pytest.raises(ValueError, match=r"'key-0'.*newline"):
        model.collate("image_to_text", with_latents(model, ["what colour is the cat?"]))
    with pytest.raises(ValueError, match=r"'key-0'.*context holds 77"):
        model.collate("image_to_text", with_latents(model, ["the cat?\n" + "red " * 80]))
    for count in (40, 400):  # the second exceeds the context before it is cut
        long = model.collate("text_to_image", with_latents(model, ["red " * count]))
        assert long["ids"].shape == (1, 24)
    with pytest.raises(ValueError, match="without a tokenizer"):
        HarmonModel(model.config).collate("text_to_image", with_latents(model, ["a cat"]))
