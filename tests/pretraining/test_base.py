from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reca.data.scenes import Scene, SceneObject
from reca.models.showo.magvit import Magvit
from reca.models.showo.model import ShowoModel
from reca.pretraining.base import TINY_MAGVIT, BaseData, tiny_showo, train_base, word_loss
from reca.pretraining.config import BaseRecipe, TokenizerRecipe
from reca.pretraining.labels import FILLER, WORDS, description
from reca.pretraining.schedule import cosine
from reca.pretraining.state import LoopState
from reca.pretraining.tokenizer import tokenizer_quality, train_tokenizer

RECIPE = BaseRecipe(updates=6, batch_size=4, scenes=16, spelled=4)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def base(seed: int = 1) -> ShowoModel:
    torch.manual_seed(0)
    return tiny_showo(Magvit(TINY_MAGVIT), seed)


def test_understanding_tokens_spell_the_objects_in_raster_order() -> None:
    scene = Scene((SceneObject("dog", "pink", 32, 0), SceneObject("key", "blue", 0, 32)))
    words = [WORDS[i] for i in description(scene)]
    assert words[:8] == ["pink", "dog", "top", "right", "blue", "key", "bottom", "left"]
    assert words[8:] == [FILLER] * 8


def test_no_caption_has_the_filler_word() -> None:
    data = BaseData(base(), replace(RECIPE, batch_size=64))
    assert not any(FILLER in example.text.split() for update in range(4) for example in data.captions(update))


def test_spelled_captions_hold_caption_words_and_fillers_only() -> None:
    data = BaseData(base(), RECIPE)
    examples, slots = data.spelled(0)
    assert [len(slot) for slot in slots] == [16] * 4
    for example, slot in zip(examples, slots, strict=True):
        names = {item.name for item in data.drawn[int(example.key)].objects}
        told = [word for word in slot if word != FILLER]
        assert 1 <= len(told) <= 6
        assert any(word.startswith(name) for name in names for word in told)


def test_projected_features_that_equal_their_words_cost_next_to_nothing() -> None:
    model = base()
    words = torch.randint(len(WORDS), (2, 16))
    ids = torch.tensor(model.collator.tokenizer.convert_tokens_to_ids(list(WORDS)))
    table = model.showo.model.embed_tokens.weight[ids].detach()
    random = word_loss(model, torch.randn(2, 16, 96), words).item()
    model.mm_projector = torch.nn.Identity()
    assert word_loss(model, table[words], words).item() < 0.2 < random


def test_a_killed_base_continues_to_the_same_bits(tmp_path: Path) -> None:
    whole, broken = base(), base()
    train_base(whole, RECIPE, LoopState(str(tmp_path / "whole")), print)

    class KilledError(Exception):
        pass

    def kill(line: str) -> None:
        if line.startswith("base 6/"):
            raise KilledError

    with pytest.raises(KilledError):
        train_base(broken, RECIPE, LoopState(str(tmp_path / "broken"), every=3), kill)
    said: list[str] = []
    again = base(seed=2)
    (tmp_path / "broken/state.pt").rename(tmp_path / "last.pt")
    train_base(base(), replace(RECIPE, updates=6), LoopState(str(tmp_path / "other"), every=3), said.append)
    assert not any("continues" in line for line in said)
    (tmp_path / "last.pt").rename(tmp_path / "broken/state.pt")
    train_base(again, RECIPE, LoopState(str(tmp_path / "broken"), every=3), said.append)
    assert any("continues after update" in line for line in said)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_tokenizer_learns_and_continues(tmp_path: Path) -> None:
    recipe = TokenizerRecipe(updates=40, batch_size=8)
    losses: list[float] = []

    def note(line: str) -> None:
        losses.append(float(line.split("L1 ")[1].split()[0]))

    model = train_tokenizer(TINY_MAGVIT, recipe, LoopState(str(tmp_path), every=20), note)
    assert losses[-1] < 0.8 * losses[0]
    said: list[str] = []
    again = train_tokenizer(TINY_MAGVIT, recipe, LoopState(str(tmp_path), every=20), said.append)
    assert said == ["continues after update 40"]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert tokenizer_quality(again, 7, 8)["psnr"] > 10


def test_the_rate_warms_up_and_ends_at_nothing() -> None:
    rates = [cosine(update, 100) for update in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[5] == 1
    assert rates[-1] < 0.01
