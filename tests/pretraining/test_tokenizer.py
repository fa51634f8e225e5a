from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from reca.models.base import UnifiedModel
from reca.pretraining.config import TokenizerRecipe
from reca.pretraining.family import ROOMS, TinyFamily, tiny_family
from reca.pretraining.janus import FAMILY as JANUS
from reca.pretraining.janus import quantised_from, revive
from reca.pretraining.state import LoopState
from reca.pretraining.tokenizer import tokenizer_quality, train_tokenizer

ENTROPY = {"showo": 1.0}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", ROOMS)
def test_the_tokenizer_learns_and_continues(name: str, tmp_path: Path) -> None:
    family: TinyFamily[nn.Module, UnifiedModel] = tiny_family(name)
    recipe = TokenizerRecipe(updates=40, batch_size=8, entropy=ENTROPY.get(name, 0.0))
    losses: list[float] = []

    def note(line: str) -> None:
        losses.append(float(line.split("L1 ")[1].split()[0]))

    model = train_tokenizer(family, recipe, LoopState(str(tmp_path), every=20), note)
    assert losses[-1] < 0.8 * losses[0]
    said: list[str] = []
    again = train_tokenizer(family, recipe, LoopState(str(tmp_path), every=20), said.append)
    assert said == ["continues after update 40"]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert tokenizer_quality(family, model, 7, 8)[0] > 10


@pytest.mark.parametrize("name", ["harmon", "openuni", "bagel"])
def test_continuous_latents_are_pulled_to_a_standard_normal_as_much_as_the_recipe_says(name: str) -> None:
    family: TinyFamily[nn.Module, UnifiedModel] = tiny_family(name)
    torch.manual_seed(0)
    tokenizer, pixels = family.new_tokenizer(), torch.rand(2, 3, 64, 64) * 2 - 1
    none, one, two = (
        family.redraw(tokenizer, pixels, 0, TokenizerRecipe(entropy=0.0, kl=weight)).penalties[0]
        for weight in (0, 1, 2)
    )
    assert none == 0 < one
    assert torch.isclose(two, 2 * one)


def test_unused_codes_get_latents_of_their_own_and_used_ones_stay() -> None:
    torch.manual_seed(0)
    side = torch.eye(8)[0] * 4
    latents = functional.normalize(torch.randn(200, 8) + side, dim=1)
    book = functional.normalize(torch.randn(32, 8) + torch.where(torch.arange(32) < 4, 1, -1)[:, None] * side, dim=1)
    used = (latents @ book.T).argmax(dim=1).unique()
    assert used.tolist() == [0, 1, 2, 3]
    before = book.clone()
    revive(book, latents, np.random.default_rng(0), fresh=False)
    assert torch.equal(book[used], before[used])
    assert len((latents @ book.T).argmax(dim=1).unique()) > 28
    revive(book, latents, np.random.default_rng(0), fresh=True)
    assert all(any(torch.equal(code, latent) for latent in latents) for code in book)


def test_latents_are_quantised_after_a_share_of_the_updates_with_a_gradient_to_the_encoder() -> None:
    recipe = TokenizerRecipe(updates=16, batch_size=2, entropy=0.0)
    torch.manual_seed(0)
    vq = JANUS.new_tokenizer()
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    before, after = (JANUS.redraw(vq, pixels, update, recipe) for update in (1, quantised_from(recipe)))
    assert before.penalties == ()
    assert torch.allclose(after.pictures, JANUS.redrawn(vq, pixels)[0], atol=1e-5)
    assert not torch.allclose(before.pictures, after.pictures)
    after.pictures.sum().backward(retain_graph=True)
    assert vq.encoder.conv_in.weight.grad is not None
    assert vq.encoder.conv_in.weight.grad.abs().sum() > 0
    assert vq.quantize.embedding.weight.grad is None
    torch.stack(after.penalties).sum().backward()
    assert vq.quantize.embedding.weight.grad is not None


def test_an_entropy_loss_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.entropy=1: a learnt codebook"):
        JANUS.redraw(JANUS.new_tokenizer(), torch.zeros(1, 3, 64, 64), 0, TokenizerRecipe())
