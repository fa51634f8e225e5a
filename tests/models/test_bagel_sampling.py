from dataclasses import replace

import pytest
import torch
from bagel_tiny import examples, pictures, tiny_model
from torch import Tensor

from reca.config import SamplingConfig
from reca.models.bagel import flow
from reca.models.bagel.config import Guidance
from reca.models.bagel.model import BagelModel
from reca.models.bagel.packing import Picture, Split, Text, pack
from reca.models.bagel.vision import to_patches
from reca.models.finite import Watch

SAMPLING = SamplingConfig(guidance=2.0, steps=3)


def packed_velocity(
    model: BagelModel, splits: list[Split], features: Tensor, clean: Tensor, noised: Tensor, time: float
) -> Tensor:
    """Velocity of the noised picture that ends a sample, computed at once."""
    assert model.collator is not None
    layout = pack([splits], model.collator.marks, model.config.seen_side, model.config.max_latent_size)
    times = torch.tensor([0.0] * (len(layout.latent_grids) - 1) + [time])
    embedded = model.network.embed_packed(layout, features, torch.cat([clean, noised]), times)
    _, states = model.network.packed(layout, embedded)
    return model.network.llm2vae(states[layout.scored])


def test_cached_contexts_give_the_velocity_of_a_full_pass() -> None:
    model, generator = tiny_model(), torch.Generator().manual_seed(0)
    features, clean, noised = (torch.randn(1, *size, generator=generator) for size in ((2, 1, 16), (6, 16), (4, 16)))
    reader, ids, time = model.reader, [3, 5, 7], torch.tensor([0.3])
    with torch.no_grad():
        context = reader.text(reader.seen(reader.latents(reader.empty(1), clean, 3), features), [ids])
        found = reader.velocity(context, noised, time, 2)
        splits = [Picture("clean", 2, 3), Picture("seen", 2, 1), Text(ids), Picture("noised", 2, 2)]
        whole = packed_velocity(model, splits, features[0].flatten(0, 1), clean[0], noised[0], 0.3)
    torch.testing.assert_close(found[0], whole, atol=1e-5, rtol=1e-5)
    assert int(context.position) == 2 + 5
    assert context.valid.shape == (1, 8 + 4 + 5)


def test_texts_of_different_length_share_a_batch() -> None:
    model, rows = tiny_model(), [[3, 5, 7], [4], []]
    noised, time = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        together = model.reader.velocity(model.reader.text(model.reader.empty(3), rows), noised, time, 2)
        for row, ids in enumerate(rows):
            context = model.reader.text(model.reader.empty(1), [ids])
            alone = model.reader.velocity(context, noised[row : row + 1], time[row : row + 1], 2)
            torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)


def test_pictures_beyond_the_position_tables_are_refused() -> None:
    reader = tiny_model().reader
    with pytest.raises(ValueError, match="picture of 1 x 4 tokens does not fit the position table of 3 x 3"):
        reader.latents(reader.empty(1), torch.zeros(1, 4, 16), 4)
    with pytest.raises(ValueError, match="picture of 4 x 2"):
        reader.seen(reader.empty(1), torch.zeros(1, 4, 2, 16))


def test_appending_leaves_the_older_context_as_it_was() -> None:
    model = tiny_model()
    text = model.reader.text(model.reader.empty(1), [[3, 4]])
    before = [text.keys[1].clone(), text.valid.clone(), text.position.clone()]
    model.reader.text(text, [[5]])
    assert all(map(torch.equal, before, (text.keys[1], text.valid, text.position)))


def test_answers_equal_decoding_without_cache_and_stop_at_the_end_mark() -> None:
    model = tiny_model()
    assert model.collator is not None
    marks, encoded = model.collator.marks, model.encode(pictures(1))
    (question,) = model.collator.prompts(["what colour is the cat?"], 0)
    naive = [marks.begin]
    with torch.no_grad():
        for _ in range(4):
            layout = pack([[Picture("seen", 2, 2), Text(question), Text(naive[1:])]], marks, 3, 3)
            features, nothing = encoded["features"][0].flatten(0, 1), torch.zeros(0, 16)
            embedded = model.network.embed_packed(layout, features, nothing, nothing[:, 0])
            states, _ = model.network.packed(layout, embedded)
            last = len(layout.text_ids) - 2
            naive.append(int(model.network.language_model.lm_head(states[last]).argmax()))
    assert marks.end not in naive
    assert model.answer(encoded, ["what colour is the cat?"], 4) == [model.collator.answer(naive[1:])]
    with torch.no_grad():
        model.network.language_model.lm_head.weight[marks.end] = 100 * states[last]
    context = model.reader.text(model.reader.seen(model.reader.empty(1), encoded["features"]), [question])
    (ids,) = model.reader.greedy(context, 8, Watch("bagel"))[0].tolist()
    assert ids == [*naive[1 : len(ids)], marks.end]
    assert model.answer(encoded, ["what colour is the cat?"], 8) == [model.collator.answer(ids[:-1])]


def test_answers_do_not_depend_on_their_batch() -> None:
    model = tiny_model()
    encoded, questions = model.encode(pictures(2)), ["what colour is the cat?", "describe"]
    both = model.answer(encoded, questions)
    assert model.answer({name: value[1:] for name, value in encoded.items()}, questions[1:]) == both[1:]


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_pictures_depend_on_prompt_and_seed_only(guidance: float) -> None:
    model, sampling = tiny_model(), SamplingConfig(guidance=guidance, steps=3)
    prompts = ["a red cat", "two blue dogs", "a cat and a red cat"]
    together = model.generate(prompts, [1, 2, 3], sampling)
    assert together.shape == (3, 3, 32, 32)
    assert together.dtype == torch.uint8
    alone = model.generate(prompts[1:2], [2], sampling)[0]
    assert int((alone.int() - together[1].int()).abs().max()) <= 1
    assert not torch.equal(model.generate(prompts[:1], [9], sampling)[0], together[0])
    assert not torch.equal(model.generate(["two blue dogs"], [1], sampling)[0], together[0])


def test_guidance_zero_is_one_conditional_pass_per_step() -> None:
    model = tiny_model()
    context = model.reader.text(model.reader.empty(1), [[3]])
    noise = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
    calls: list[str] = []

    def branch(name: str) -> flow.Velocity:
        return lambda tokens, time: (calls.append(name), model.reader.velocity(context, tokens, time, 2))[1]

    branches = [branch(name) for name in ("full", "text_free", "image_free")]
    list(flow.sample(branches, noise, flow.time_grid(2, 1.0), Guidance(text=1.0)))
    assert calls == ["full", "full"]
    calls.clear()
    list(flow.sample(branches, noise, flow.time_grid(2, 1.0), Guidance(text=2.0, image=1.5, interval=(0.5, 1.0))))
    assert calls == ["full", "text_free", "image_free", "full"]


def test_bounds_of_the_guidance_interval_are_compared_in_float32() -> None:
    free: list[float] = []

    def still(tokens: Tensor, times: Tensor) -> Tensor:
        return torch.zeros_like(tokens)

    def text_free(tokens: Tensor, times: Tensor) -> Tensor:
        free.append(round(float(times[0]), 3))
        return torch.zeros_like(tokens)

    # Of the grid 1, 0.8, 0.6, 0.4, 0.2 the interval (0.4, 0.8] has 0.8 and not 0.4; in float64 it would be otherwise.
    settings = Guidance(text=2.0, interval=(0.4, 0.8))
    list(flow.sample([still, text_free, still], torch.zeros(1, 1, 1), flow.time_grid(5, 1.0), settings))
    assert free == [0.8, 0.6]


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_guided_velocities_are_no_longer_than_conditional_ones(renorm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    velocity, text_free, image_free = (torch.randn(2, 5, 8, generator=generator) for _ in range(3))
    settings = Guidance(text=4.0, image=2.0, renorm=renorm)  # pyright: ignore[reportArgumentType]
    found = flow.guide(velocity, text_free, None, settings)
    axes = (1, 2) if renorm == "global" else (2,)
    assert (found.norm(dim=axes) <= velocity.norm(dim=axes) * (1 + 1e-5)).all()
    plain = text_free + 4 * (velocity - text_free)
    torch.testing.assert_close(flow.guide(velocity, text_free, None, replace(settings, renorm_min=1.0)), plain)
    both = image_free + 2 * (plain - image_free)
    torch.testing.assert_close(flow.guide(velocity, text_free, image_free, replace(settings, renorm_min=1.0)), both)
    alone = flow.guide(velocity[1:], text_free[1:], image_free[1:], settings)
    torch.testing.assert_close(flow.guide(velocity, text_free, image_free, settings)[1:], alone)


def test_text_channel_rescales_before_the_image_step() -> None:
    generator = torch.Generator().manual_seed(1)
    velocity, text_free, image_free = (torch.randn(1, 5, 8, generator=generator) for _ in range(3))
    settings = Guidance(text=4.0, image=2.0, renorm="text_channel")
    by_text = flow.guide(velocity, text_free, None, settings)
    expected = image_free + 2 * (by_text - image_free)
    torch.testing.assert_close(flow.guide(velocity, text_free, image_free, settings), expected)


def test_reconstructions_see_picture_and_prompt() -> None:
    model = tiny_model()
    encoded = model.encode(pictures(2))
    drawn = model.reconstruct(encoded, ["the image", "describe the image"], [1, 1], SAMPLING)
    assert drawn.shape == (2, 3, 32, 32)
    swapped = {name: value.flip(0) for name, value in encoded.items()}
    other = model.reconstruct(swapped, ["the image", "describe the image"], [1, 1], SAMPLING)
    assert not torch.equal(drawn, other)
    moved = {**encoded, "latent_mean": encoded["latent_mean"] + 1}
    again = model.reconstruct(moved, ["the image", "describe the image"], [1, 1], SAMPLING)
    assert torch.equal(drawn, again), "a reconstruction must not see the latents"


def test_edits_have_the_size_of_their_picture_and_see_all_of_their_context() -> None:
    model = tiny_model()
    wide = pictures(2, size=(30, 61))
    edited = model.edit(wide, ["make it blue", "make it red"], [1, 2], SAMPLING)
    assert edited.shape == (2, 3, 32, 48)
    assert edited.dtype == torch.uint8
    alone = model.edit(wide[1:], ["make it red"], [2], SAMPLING)[0]
    assert int((alone.int() - edited[1].int()).abs().max()) <= 1
    assert not torch.equal(model.edit(wide[1:], ["make it blue"], [2], SAMPLING)[0], alone)
    assert not torch.equal(model.edit(wide.flip(0)[1:], ["make it red"], [2], SAMPLING)[0], alone)
    with pytest.raises(ValueError, match=r"instruction 0.*context holds 48"):
        model.edit(wide[:1], ["red " * 40], [1], SAMPLING)


def test_a_trained_velocity_field_is_followed_back_to_its_data() -> None:
    """With the exact velocity of a single data point, the sampler lands on it from any noise."""
    data, noise = torch.randn(1, 4, 16), torch.randn(1, 4, 16)

    def exact(tokens: Tensor, time: Tensor) -> Tensor:
        return (tokens - data) / time[:, None, None]

    *_, final = flow.sample([exact] * 3, noise, flow.time_grid(7, 3.0), Guidance(text=1.0))
    assert isinstance(final, Tensor)
    torch.testing.assert_close(final, data, atol=1e-5, rtol=1e-5)


def test_generation_shares_the_maths_of_training() -> None:
    """The velocity that the loss sees for a caption is the one that the sampler uses."""
    model = tiny_model(text_dropout=0.0)
    batch = model.collate("text_to_image", examples(model, ["a red cat"]))
    draws = model.draw("text_to_image", batch, [5])
    time = draws["timestep"].sigmoid()
    clean = to_patches(batch["latent_mean"] + batch["latent_std"] * draws["posterior"], 2)
    mixed = flow.noised(clean, draws["noise"], time[:, None, None])
    with torch.no_grad():
        context = model.reader.text(model.reader.empty(1), batch["text"].tolist())
        velocity = model.reader.velocity(context, mixed, time, 2)
        expected = (velocity - (draws["noise"] - clean)).square().mean(dim=2).sum()
        torch.testing.assert_close(model.loss("text_to_image", batch, draws).total, expected)
