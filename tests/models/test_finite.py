"""NaN in some rows of a batch: every family refuses these rows by number and keeps the others bit for bit."""

import pickle
from typing import Any

import pytest
import torch
from tiny_models import BUILD
from torch import Tensor

from reca.config import SamplingConfig
from reca.models.base import Editor, UnifiedModel
from reca.models.finite import ANSWER, CODES, LATENTS, PICTURE, TOKENIZED, NonFiniteOutputError, Watch, WatchedLogits

TEXTS = ("two blue dogs", "a red cat", "describe the image in detail")
SEEDS = (1, 2, 3)
FEW = SamplingConfig(guidance=1.0, steps=2)
DRAWN = {"showo": CODES, "harmon": LATENTS, "janus": CODES, "openuni": LATENTS, "bagel": LATENTS}
DECODER = {
    "showo": "magvit.decoder.",
    "harmon": "vae.decoder.",
    "janus": "janus.model.vqmodel.decoder.",
    "openuni": "vae.decoder.",
    "bagel": "vae.autoencoder.decoder.",
}


def pictures(model: UnifiedModel) -> Tensor:
    side = model.geometry.size
    return torch.arange(9 * side * side).reshape(3, 3, side, side).remainder(251).to(torch.uint8)


@torch.no_grad()
def spoil_cat(model: Any) -> None:
    """Make the embedding of one word NaN: of the texts, only the second has it."""
    tokenizer = (model.prompter if hasattr(model, "prompter") else model.collator).tokenizer
    (word,) = tokenizer("cat", add_special_tokens=False)["input_ids"]
    (table,) = [value for name, value in model.named_parameters() if name.endswith("embed_tokens.weight")]
    table[word] = torch.nan


@pytest.mark.parametrize("family", BUILD)
def test_a_row_of_nan_is_named_and_the_others_are_kept(family: str) -> None:
    model = BUILD[family]()
    encoded = model.encode(pictures(model))

    def calls(model: UnifiedModel) -> dict[str, Any]:
        found = {
            "generate": lambda: model.generate(TEXTS, SEEDS, FEW),
            "reconstruct": lambda: model.reconstruct(encoded, TEXTS, SEEDS, FEW),
        }
        if isinstance(model, Editor):
            found["edit"] = lambda: model.edit(pictures(model), TEXTS, SEEDS, FEW)
        return found

    sound = {name: call() for name, call in calls(model).items()}
    spoil_cat(model)
    for name, call in calls(model).items():
        with pytest.raises(NonFiniteOutputError) as error:
            call()
        assert error.value.faults == {1: f"{family}: NaN or infinity in {DRAWN[family]}"}
        assert torch.equal(error.value.result[[0, 2]], sound[name][[0, 2]])


@pytest.mark.parametrize("family", BUILD)
def test_an_answer_out_of_nan_is_refused(family: str) -> None:
    model = BUILD[family]()
    encoded = model.encode(pictures(model))
    sound = model.answer(encoded, TEXTS, 4)
    spoil_cat(model)
    with pytest.raises(NonFiniteOutputError) as error:
        model.answer(encoded, TEXTS, 4)
    # Harmon's output matrix is its embedding, so one NaN word is NaN in the logits of every row.
    rows = (0, 1, 2) if family == "harmon" else (1,)
    assert error.value.faults == dict.fromkeys(rows, f"{family}: NaN or infinity in {ANSWER}")
    assert all(error.value.result[row] == sound[row] for row in range(3) if row not in rows)


@pytest.mark.parametrize("family", BUILD)
def test_a_picture_that_the_decoder_spoils_is_refused(family: str) -> None:
    model = BUILD[family]()
    bias = [value for name, value in model.named_parameters() if name.startswith(DECODER[family])][-1]
    with torch.no_grad():
        bias.fill_(torch.inf)
    with pytest.raises(NonFiniteOutputError) as error:
        model.generate(TEXTS, SEEDS, FEW)
    assert error.value.faults == dict.fromkeys(range(3), f"{family}: NaN or infinity in {PICTURE}")


def test_what_was_seen_first_is_the_cause_and_sound_results_come_back() -> None:
    watch = Watch("any")
    odd = torch.tensor([[0.0, 1.0], [torch.nan, 1.0], [0.0, 1.0], [-torch.inf, torch.inf]])
    assert watch.see(LATENTS, odd) is odd
    watch.see(LATENTS, torch.ones(4, 2))
    watch.see(PICTURE, torch.tensor([[1.0], [torch.nan], [torch.inf], [1.0]]))
    with pytest.raises(NonFiniteOutputError) as error:
        watch.passed(torch.zeros(4))
    found = error.value
    latents, picture = (f"any: NaN or infinity in {what}" for what in (LATENTS, PICTURE))
    assert found.faults == {1: latents, 2: picture, 3: latents}
    assert f"{latents} (rows 1, 3 of a batch of 4); {picture} (rows 2 of a batch of 4); use float32" in str(found)
    again = pickle.loads(pickle.dumps(found))
    assert (str(again), again.faults) == (str(found), found.faults)
    sound = Watch("any")
    sound.see(PICTURE, torch.full((2, 3), 3e4, dtype=torch.float16))
    assert sound.passed("as it was") == "as it was"


def test_logits_behind_the_end_of_an_answer_do_not_matter() -> None:
    stop, broken = 7, torch.full((3, 9), torch.nan)
    for ended, rows in (([[7, 0], [1, 2], [3, 7]], [1]), ([[], [], []], [0, 1, 2])):
        watch = Watch("any")
        ids = torch.tensor(ended, dtype=torch.long).reshape(3, -1)
        assert WatchedLogits(watch, stop)(ids, broken) is broken
        with pytest.raises(NonFiniteOutputError) as error:
            watch.passed([""] * 3)
        assert list(error.value.faults) == rows
    watch = Watch("any")
    WatchedLogits(watch, None)(torch.full((3, 1), stop), torch.ones(3, 9))
    watch.see(ANSWER, broken, torch.zeros(3, dtype=torch.bool))
    assert watch.passed(["yes"]) == ["yes"]


ENCODER = {
    "showo": "magvit.encoder",
    "harmon": "vae.encoder",
    "janus": "janus.model.vqmodel.encoder",
    "openuni": "vae.encoder",
    "bagel": "vae.autoencoder.encoder",
}
"""What makes latents of a picture."""


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("family", BUILD)
def test_latents_out_of_nan_are_refused_and_give_no_code(family: str, bad: float) -> None:
    model = BUILD[family]()
    sound = model.encode(pictures(model))
    with torch.no_grad():
        model.get_submodule(f"{ENCODER[family]}.conv_out").get_parameter("bias")[0] = bad
    with pytest.raises(NonFiniteOutputError) as error:
        model.encode(pictures(model))
    named = {"showo": TOKENIZED, "janus": TOKENIZED, "bagel": "the encoded latent_mean"}
    what = named.get(family, "the encoded latents")
    assert error.value.faults == dict.fromkeys(range(3), f"{family}: NaN or infinity in {what}")
    assert {name: (v.dtype, v.shape) for name, v in error.value.result.items()} == {
        name: (v.dtype, v.shape) for name, v in sound.items()
    }


@pytest.mark.parametrize("family", BUILD)
def test_only_the_rows_of_bad_pixels_are_refused(family: str) -> None:
    model = BUILD[family]()
    sound = model.encode(pictures(model))

    def spoil(_: object, arguments: tuple[Tensor]) -> tuple[Tensor]:
        images = arguments[0].clone()
        images[1, 0, 0, 0] = torch.nan
        return (images,)

    model.get_submodule(ENCODER[family]).register_forward_pre_hook(spoil)
    with pytest.raises(NonFiniteOutputError) as error:
        model.encode(pictures(model))
    assert list(error.value.faults) == [1]
    for name, values in error.value.result.items():
        assert torch.equal(values[[0, 2]], sound[name][[0, 2]])
