from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reca.config import SamplingConfig
from reca.data.scenes import Scene, SceneObject
from reca.models.base import UnifiedModel
from reca.pretraining import harmon
from reca.pretraining.base import BaseData, train_base, word_loss
from reca.pretraining.card import READ_WITH, card_notes
from reca.pretraining.config import BaseRecipe
from reca.pretraining.family import ROOMS, TinyFamily, tiny_family
from reca.pretraining.labels import FILLER, TOKENS, WORDS, description
from reca.pretraining.schedule import cosine
from reca.pretraining.state import LoopState

RECIPE = BaseRecipe(updates=6, batch_size=4, scenes=16, spelled=4)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=ROOMS)
def family(request: pytest.FixtureRequest) -> TinyFamily[nn.Module, UnifiedModel]:
    return tiny_family(request.param)


def base(family: TinyFamily[nn.Module, UnifiedModel], seed: int = 1) -> UnifiedModel:
    torch.manual_seed(0)
    return family.build(family.new_tokenizer(), seed)


def data(batch_size: int = 4) -> BaseData:
    def no_codes(pixels: Tensor) -> dict[str, Tensor]:
        return {"codes": torch.zeros(len(pixels), 16, dtype=torch.int64)}

    return BaseData(replace(RECIPE, batch_size=batch_size), no_codes, {"features": np.zeros((16, 8), np.float32)})


def test_a_family_without_a_tiny_base_is_named() -> None:
    with pytest.raises(ValueError, match=r"'bagle' has no tiny base; .*showo"):
        tiny_family("bagle")


def test_understanding_tokens_spell_the_objects_in_raster_order() -> None:
    scene = Scene((SceneObject("dog", "pink", 32, 0), SceneObject("key", "blue", 0, 32)))
    words = [WORDS[i] for i in description(scene)]
    assert words[:8] == ["pink", "dog", "top", "right", "blue", "key", "bottom", "left"]
    assert words[8:] == [FILLER] * 8


def test_no_caption_has_the_filler_word() -> None:
    composed = data(batch_size=64)
    assert not any(FILLER in example.text.split() for update in range(4) for example in composed.captions(update))


def test_spelled_captions_hold_caption_words_and_fillers_only() -> None:
    composed = data()
    examples, slots = composed.spelled(0)
    assert [len(slot) for slot in slots] == [16] * 4
    for example, slot in zip(examples, slots, strict=True):
        names = {item.name for item in composed.drawn[int(example.key)].objects}
        told = [word for word in slot if word != FILLER]
        assert 1 <= len(told) <= 6
        assert any(word.startswith(name) for name in names for word in told)


def test_projected_features_that_equal_their_words_cost_next_to_nothing() -> None:
    words = torch.randint(len(WORDS), (2, 16))
    table = torch.randn(len(WORDS), 32, requires_grad=True)
    assert word_loss(table[words], table, words).item() < 0.2 < word_loss(torch.randn(2, 16, 32), table, words).item()
    projected = torch.randn(2, 16, 32, requires_grad=True)
    word_loss(projected, table, words).backward()
    assert projected.grad is not None
    assert table.grad is None


def test_every_word_of_the_tiny_world_has_an_embedding_of_its_own(
    family: TinyFamily[nn.Module, UnifiedModel],
) -> None:
    table = family.word_embeddings(base(family), [*WORDS, "two", "dogs", "below"])
    assert len(table.unique(dim=0)) == len(WORDS) + 3


def test_there_is_an_understanding_token_for_every_word_and_what_makes_it_learns(
    family: TinyFamily[nn.Module, UnifiedModel],
) -> None:
    model = base(family)
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    learners = family.learns(model) or [model]
    for module in family.learns(model):
        module.requires_grad_(True)
    projected = family.projected(model, family.features(model, pixels))
    assert projected.shape[:2] == (2, TOKENS)
    projected.sum().backward()
    assert any(parameter.grad is not None for module in learners for parameter in module.parameters())


def test_targets_and_features_are_those_that_encode_caches(family: TinyFamily[nn.Module, UnifiedModel]) -> None:
    model = base(family).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    encoded = model.encode(pixels)
    floats = pixels.float() / 127.5 - 1
    for name, value in family.targets(model, floats).items():
        assert torch.equal(value, encoded[name].to(value.dtype)), name
    if "features" in encoded:
        assert torch.allclose(family.features(model, floats).detach(), encoded["features"], atol=1e-5)
    assert {name: value.shape for name, value in family.blanks(model).items()} == {
        name: tuple(encoded[name].shape[1:]) for name in family.blanks(model)
    }


def test_spelled_captions_are_read(
    family: TinyFamily[nn.Module, UnifiedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harmon, "WORDS_WEIGHT", 0.0)  # that loss has the words as its target too
    model = base(family)
    with torch.no_grad():  # heads that start at 0 read nothing yet
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    recipe = replace(RECIPE, scenes=4)
    composed = BaseData(recipe, lambda pixels: family.targets(model, pixels), family.blanks(model))
    examples, slots = composed.spelled(0)
    with torch.no_grad():
        first = family.spelled_loss(model, examples, slots, [1, 2, 3, 4])
        again = family.spelled_loss(model, examples, slots, [1, 2, 3, 4])
        other = family.spelled_loss(model, examples, [["dog"] * 16] * 4, [1, 2, 3, 4])
    assert first == again
    assert first != other


def test_a_killed_base_continues_to_the_same_bits(family: TinyFamily[nn.Module, UnifiedModel], tmp_path: Path) -> None:
    whole, broken, again = base(family), base(family), base(family, seed=2)
    train_base(family, whole, RECIPE, LoopState(str(tmp_path / "whole")), print)

    class KilledError(Exception):
        pass

    def kill(line: str) -> None:
        if line.startswith("base 6/"):
            raise KilledError

    with pytest.raises(KilledError):
        train_base(family, broken, RECIPE, LoopState(str(tmp_path / "broken"), every=4), kill)
    said: list[str] = []
    train_base(family, again, RECIPE, LoopState(str(tmp_path / "broken"), every=4), said.append)
    assert "continues after update 4" in said
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_made_base_can_be_saved_read_and_used(family: TinyFamily[nn.Module, UnifiedModel], tmp_path: Path) -> None:
    model = base(family).eval()
    model.save(tmp_path)
    loaded = type(model).load(tmp_path)
    encoded = loaded.encode(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert loaded.generate(["two dogs"], [1], SamplingConfig(steps=2)).shape == (1, 3, 64, 64)
    assert len(loaded.answer(encoded, ["what is in the picture ?"], max_new_tokens=2)) == 1


def test_what_a_card_says_of_its_scores_is_found() -> None:
    card = f"# base\n\nText.\n\n{READ_WITH}\n\n- One\n  wrapped.\n- Two.\n\nMore.\n\n## Next\n\n- no\n"
    assert card_notes(card) == ("One wrapped.", "Two.")
    assert card_notes("# base\n\n- Text.\n") == ()


def test_the_rate_warms_up_and_ends_at_nothing() -> None:
    rates = [cosine(update, 100) for update in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[5] == 1
    assert rates[-1] < 0.01
