import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from openuni_tiny import SANA, tiny_model
from torch.nn import functional
from transformers import InternVLConfig, InternVLModel

from reca.models.checkpoint import joined, load_strict, write_tensors
from reca.models.openuni.config import ConnectorSizes, FlowSettings
from reca.models.openuni.flow import add_noise, denoise, sampling_scheduler, seeded_noise, training_levels
from reca.models.openuni.model import OpenUniModel
from reca.models.openuni.prompts import Prompter, pad
from reca.models.openuni.tokenizer import SPECIAL
from reca.models.openuni.understanding import merge_patches, published_state


def prompter() -> Prompter:
    found = tiny_model().prompter
    assert found is not None
    return found


def test_training_levels_follow_the_shift() -> None:
    sigmas, times = training_levels(FlowSettings())
    torch.testing.assert_close(sigmas, torch.arange(1000, 0, -1) / 1000)
    torch.testing.assert_close(times, torch.arange(1000.0, 0, -1))
    shifted, _ = training_levels(FlowSettings(shift=3.0))
    torch.testing.assert_close(shifted, 3 * sigmas / (1 + 2 * sigmas))


def test_noise_levels_are_picked_by_the_floor_of_the_draw() -> None:
    latents, noise = torch.ones(4, 1, 1, 1), torch.full((4, 1, 1, 1), 3.0)
    noised = add_noise(latents, noise, torch.tensor([0.0, 0.0019, 0.5, 1 - 2**-24]), FlowSettings())
    assert noised.timesteps.tolist() == [1000, 999, 500, 1]
    torch.testing.assert_close(noised.sigmas, noised.timesteps / 1000)
    torch.testing.assert_close(noised.latents.flatten(), 1 + 2 * noised.sigmas)
    assert noised.velocity.flatten().tolist() == [2.0] * 4


def test_the_solver_has_shifted_levels_and_finds_the_clean_latents_of_a_straight_flow() -> None:
    settings = FlowSettings(flow_shift=3.0)
    plain = torch.linspace(1, 0, 6)[:-1]
    found = sampling_scheduler(settings, 5).sigmas
    torch.testing.assert_close(found[:-1], 3 * plain / (1 + 2 * plain), atol=2e-3, rtol=0)
    assert found[-1] == 0
    clean, noise = torch.full((2, 1, 2, 2), 0.7), seeded_noise([1, 2], (1, 2, 2))
    steps = list(denoise(lambda latents, time: noise - clean, noise, 5, settings))
    assert len(steps) == 5
    # The first level is 0.9997, not 1, so that much of the noise stays.
    torch.testing.assert_close(steps[-1].after, clean, atol=2e-3, rtol=0)
    assert [int(step.timestep) for step in steps] == [int(1000 * sigma) for sigma in found[:-1].double().tolist()]


def test_noise_depends_on_its_own_seed() -> None:
    both = seeded_noise([1, 2], (3, 2, 2))
    assert torch.equal(seeded_noise([2], (3, 2, 2))[0], both[1])
    assert not torch.equal(both[0], both[1])


def test_patches_are_merged_as_in_transformers() -> None:
    patches = torch.arange(2 * 16 * 3.0).view(2, 16, 3)
    found = merge_patches(patches, 2)
    assert found.shape == (2, 4, 12)
    assert found[0, 1].view(4, 3)[:, 0].tolist() == [3 * place for place in (2, 3, 6, 7)]
    theirs = InternVLModel.pixel_shuffle(None, patches.view(2, 4, 4, 3), 0.5)  # pyright: ignore[reportArgumentType]
    assert torch.equal(found, theirs.reshape(2, 4, 12))


def test_features_equal_those_of_the_stock_internvl_class() -> None:
    model = tiny_model()
    vision = model.lmm.vision_model.config.to_dict()
    text = model.lmm.language_model.config.to_dict()
    stock = InternVLModel(InternVLConfig(vision_config=vision, text_config=text, image_token_id=1)).eval()
    stock.vision_tower.load_state_dict(model.lmm.vision_model.state_dict())
    for ours, theirs in ((0, "layer_norm"), (1, "linear_1"), (3, "linear_2")):
        getattr(stock.multi_modal_projector, theirs).load_state_dict(model.lmm.mlp1[ours].state_dict())
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = functional.interpolate(((images + 1) / 2 - mean) / std, size=(28, 28), mode="bilinear")
    with torch.no_grad():
        expected = stock.get_image_features(pixels, vision_feature_layer=-1, vision_feature_select_strategy="default")
        torch.testing.assert_close(model.lmm.features(images), expected.pooler_output, atol=1e-5, rtol=1e-5)


def test_published_names_round_trip(tmp_path: Path) -> None:
    model, other = tiny_model(0), tiny_model(1)
    published = {name: joined(value) for name, value in published_state(model.state_dict()).items()}
    write_tensors(published, tmp_path / "model.safetensors")
    load_strict(published_state(other.state_dict()), tmp_path / "model.safetensors")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    rows = published["lmm.vision_model.encoder.layers.0.attn.qkv.weight"]
    attention = model.lmm.vision_model.encoder.layer[0].attention
    assert torch.equal(rows[16:32], attention.k_proj.weight)


def test_prompts_have_the_published_forms() -> None:
    made = prompter()
    start, end, image, image_end, context = (made.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL)
    words = {word: made.tokenizer.convert_tokens_to_ids(word) for word in ("user", "assistant", "generate", "an", ":")}

    def ids(text: str) -> list[int]:
        return made.tokenizer(text, add_special_tokens=False)["input_ids"]

    caption = [*ids("generate an image: a red cat")]
    assert caption[:2] == [words["generate"], words["an"]]
    both = made.captions(["a red cat "], ["x"], unconditional=True)
    close = [end, start, words["assistant"], image]
    rows = [row[mask].tolist() for row, mask in zip(both.ids, both.mask, strict=True)]
    assert rows[0] == [start, words["user"], *caption, *close]
    assert rows[1] == [start, words["user"], *ids("generate an image."), *close]
    template = made.templates(["describe the image"], ["x"], unconditional=True)
    block = [image, *[context] * 4, image_end]
    rows = [row[mask].tolist() for row, mask in zip(template.ids, template.mask, strict=True)]
    assert rows[0] == [start, words["user"], *block, *ids("describe the image"), *close]
    assert rows[1] == [start, words["user"], *block, *ids("keep the image as it is."), *close]
    question = made.questions(["what colour is the cat?"], ["x"], 8).ids[0].tolist()
    assert question == [start, words["user"], *block, *ids("what colour is the cat?"), *close[:-1]]


def test_padding() -> None:
    right, left = pad([[1, 2], [3]]), pad([[1, 2], [3]], left=True)
    assert right.ids.tolist() == [[1, 2], [3, 0]]
    assert right.mask.tolist() == [[True, True], [True, False]]
    assert left.ids.tolist() == [[1, 2], [0, 3]]
    assert left.mask.tolist() == [[True, True], [False, True]]


def test_positions_count_valid_ids_only_and_queries_come_last() -> None:
    model = tiny_model()
    padded = pad([[4, 5, 6], [7]])
    inputs = model.query_inputs(padded.ids, padded.mask, None)
    assert inputs.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 1, 2, 3, 4, 5]]
    assert torch.equal(inputs.embeddings[:, 3:], model.meta_queries.expand(2, -1, -1))
    left = pad([[4, 5, 6], [7]], left=True)
    assert model.query_inputs(left.ids, left.mask, None).positions[1].tolist() == [0, 0, 0, 1, 2, 3, 4, 5]


def test_features_take_the_places_of_the_image_ids_in_order() -> None:
    model = tiny_model()
    context = model.config.image_context_id
    ids = torch.tensor([[1, context, context, 2], [context, 3, 1, context]])
    features = torch.arange(2 * 2 * 32.0).view(2, 2, 32)
    found = model.lmm.embed(ids, features, context)
    table = model.lmm.language_model.model.embed_tokens.weight
    assert torch.equal(found[0], torch.stack([table[1], features[0, 0], features[0, 1], table[2]]))
    assert torch.equal(found[1], torch.stack([features[1, 0], table[3], table[1], features[1, 1]]))


@pytest.mark.parametrize("count", [1, 4])
def test_sampling_steps_are_as_many_as_asked_for(count: int) -> None:
    noise = seeded_noise([0], (1, 2, 2))
    steps = list(denoise(lambda latents, time: latents * math.pi, noise, count, FlowSettings()))
    assert len(steps) == count
    assert torch.equal(steps[0].before, noise)


def test_long_prompts_with_an_image_keep_their_newest_positions_in_training_only() -> None:
    model = tiny_model(max_prompt=3)
    context = model.config.image_context_id
    ids = torch.tensor([[1, context, context, 2, 5]])
    mask, features = torch.ones_like(ids).bool(), torch.arange(2 * 32.0).view(1, 2, 32)
    whole, cut = model.query_inputs(ids, mask, features), model.loss_inputs(ids, mask, features)
    assert torch.equal(cut.embeddings, whole.embeddings[:, 2:])
    assert torch.equal(cut.embeddings[0, 0], features[0, 1])
    assert cut.positions.tolist() == [list(range(3 + model.config.queries))]
    assert model.loss_inputs(ids, mask, None).mask.shape == whole.mask.shape


def test_the_position_table_of_the_vision_tower_is_resized_for_another_input() -> None:
    """A table of 4 x 4 patches read at 6 x 6 equals a bicubic table of 6 x 6."""
    model = tiny_model(vit_input_size=42)
    assert model.config.image_tokens == 9
    other = tiny_model(vision=replace(model.config.vision, image_size=42))
    state = model.state_dict()
    name = "lmm.vision_model.embeddings.position_embeddings"
    state[name] = torch.randn(state[name].shape, generator=torch.Generator().manual_seed(3))
    model.load_state_dict(state)
    grid = state[name][:, 1:].view(1, 4, 4, -1).permute(0, 3, 1, 2)
    grown = functional.interpolate(grid, size=(6, 6), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    other.load_state_dict({**state, name: torch.cat([state[name][:, :1], grown], dim=1)})
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1
    torch.testing.assert_close(model.lmm.features(images), other.lmm.features(images))


@pytest.mark.parametrize(
    ("kind", "width", "names"),
    [
        ("enc_proj", 32, {"projector.weight": (24, 32)}),
        ("proj_enc", 24, {"projector.weight": (24, 32)}),
        ("proj_enc_proj", 40, {"projector.0.weight": (40, 32), "projector.1.weight": (24, 40)}),
    ],
)
def test_widths_meet_before_or_after_the_connector(
    kind: str, width: int, names: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    model = tiny_model(proj_type=kind, connector=ConnectorSizes(48, 2, 2, hidden_size=width))
    shapes = {name: tuple(value.shape) for name, value in model.trainable().items()}
    assert {name: shape for name, shape in shapes.items() if name.startswith("projector.") and len(shape) == 2} == names
    states = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    matrices = [model.trainable()[name] for name in names]
    biases = [model.trainable()[name.replace("weight", "bias")] for name in names]
    found = states
    if kind != "enc_proj":
        found = functional.linear(found, matrices[0], biases[0])
    between = model.connector(inputs_embeds=found).last_hidden_state
    context = between if kind == "proj_enc" else functional.linear(between, matrices[-1], biases[-1])
    middle, last = model.connected(states)
    torch.testing.assert_close(middle, between)
    torch.testing.assert_close(last, context)
    model.save(tmp_path)
    again = OpenUniModel.load(tmp_path)
    assert again.config == model.config
    torch.testing.assert_close(again.connected(states)[1], last)


def test_sana_may_have_a_position_table() -> None:
    model = tiny_model(sana=replace(SANA, interpolation_scale=2.0))
    assert model.transformer.patch_embed.pos_embed.abs().max() > 0
    assert tiny_model().transformer.patch_embed.pos_embed is None
