import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from showo_tiny import examples, tiny_model

from reca.models.errors import CheckpointError
from reca.models.showo.config import SHOWO_256, SHOWO_512, ShowoConfig, read_config
from reca.models.showo.files import clip_name
from reca.models.showo.model import ShowoModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model().save(tmp_path)
    return tmp_path


def test_a_saved_model_loads_bit_for_bit_and_works_alike(folder: Path) -> None:
    model, loaded = tiny_model(), ShowoModel.load(folder)
    assert loaded.config == model.config
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    batches = [each.collate("reconstruction", examples(each, ["describe the image"])) for each in (model, loaded)]
    draws = model.draw("reconstruction", batches[0], [3])
    found = [
        each.loss("reconstruction", batch, draws).total for each, batch in zip((model, loaded), batches, strict=True)
    ]
    assert torch.equal(found[0], found[1])
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert {name for name, value in loaded.named_parameters() if value.requires_grad} == set(model.trainable())


def test_files_have_published_keys(folder: Path) -> None:
    language = set(load_file(folder / "model.safetensors"))
    assert language == set(tiny_model().trainable())
    assert "showo.model.layers.0.self_attn.q_layernorm.weight" in language
    assert "mm_projector.2.bias" in language
    assert "vision_model.pre_layrnorm.weight" in load_file(folder / "clip" / "model.safetensors")
    assert "quantize.power_vals" in load_file(folder / "magvitv2" / "model.safetensors")


def test_bfloat16_checkpoints_load_as_float32(tmp_path: Path) -> None:
    model = tiny_model()
    model.save(tmp_path, dtype=torch.bfloat16)
    loaded = ShowoModel.load(tmp_path)
    weight = loaded.showo.lm_head.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model.showo.lm_head.weight.bfloat16().float())


@pytest.mark.parametrize("part", ["model.safetensors", "clip/model.safetensors", "magvitv2/model.safetensors"])
def test_a_bad_tensor_in_any_part_is_named(folder: Path, part: str) -> None:
    weights = load_file(folder / part)
    name = next(name for name, value in weights.items() if value.is_floating_point())
    save_file({**weights, name: torch.full_like(weights[name], float("nan"))}, folder / part)
    with pytest.raises(CheckpointError, match=f"{part}: {name}: .*NaN"):
        ShowoModel.load(folder)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "away.json")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: file is missing"):
        ShowoModel.load(folder)
    (folder / "away.json").rename(folder / "tokenizer.json")
    (folder / "clip" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"clip/config\.json: file is missing"):
        ShowoModel.load(folder)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_bad_configurations_are_named(folder: Path) -> None:
    path = folder / "config.json"
    good = path.read_text()
    for changes, message in (
        ({"colour": 1}, "unknown fields.*colour"),
        ({"image_size": "big"}, "image_size"),
        ({"image_size": 18}, "no multiple"),
        ({"family": "harmon"}, "family 'harmon', expected 'showo'"),
        ({"text_size": 5}, "size and end-of-text"),
    ):
        edit(path, **changes)
        with pytest.raises(CheckpointError, match=message):
            ShowoModel.load(folder)
        path.write_text(good)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="no JSON"):
        ShowoModel.load(folder)


def test_published_configurations_are_read(tmp_path: Path) -> None:
    files = {
        "config.json": {"w_clip_vit": True, "llm_vocab_size": 50295, "num_vq_tokens": 1024, "vocab_size": 58498},
        "magvitv2/config.json": {"_class_name": "MAGVITv2"},
        "clip/config.json": {"model_type": "clip", "vision_config": {"hidden_size": 1024, "image_size": 336}},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    assert read_config(tmp_path) == SHOWO_512
    edit(tmp_path / "config.json", num_vq_tokens=256)
    assert read_config(tmp_path) == SHOWO_256
    for changes, message in (
        ({"num_vq_tokens": 250}, "num_vq_tokens is 250"),
        ({"num_vq_tokens": "many"}, "num_vq_tokens is 'many'"),
        ({"num_vq_tokens": 256, "w_clip_vit": False}, "w_clip_vit"),
    ):
        edit(tmp_path / "config.json", **changes)
        with pytest.raises(CheckpointError, match=rf"config\.json: {message}"):
            read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"w_clip_vit": True, "num_vq_tokens": 256}))
    with pytest.raises(CheckpointError, match=r"config\.json: llm_vocab_size is missing"):
        read_config(tmp_path)


def test_clip_names() -> None:
    assert (
        clip_name("vision_model.post_layernorm.bias")
        == clip_name("post_layernorm.bias")
        == "vision_model.post_layernorm.bias"
    )
    assert clip_name("text_model.final_layer_norm.bias") is None
    assert clip_name("vision_model.embeddings.position_ids") is None


@pytest.mark.parametrize(("config", "positions"), [(SHOWO_256, 256), (SHOWO_512, 1024)])
def test_real_models_have_the_released_shapes(config: ShowoConfig, positions: int) -> None:
    with torch.device("meta"):
        model = ShowoModel(config)
    assert config.image_tokens == positions
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    language = {name: shape for name, shape in shapes.items() if name.startswith("showo.")}
    assert len(language) == 437
    assert sum(torch.Size(shape).numel() for shape in language.values()) == 1_448_176_770
    assert {name: shape for name, shape in shapes.items() if name.startswith("mm_projector.")} == {
        "mm_projector.0.weight": (2048, 1024),
        "mm_projector.0.bias": (2048,),
        "mm_projector.2.weight": (2048, 2048),
        "mm_projector.2.bias": (2048,),
    }
    assert shapes["showo.model.embed_tokens.weight"] == (58498, 2048)
    assert shapes["showo.lm_head.bias"] == (58498,)
    assert shapes["showo.model.layers.23.self_attn.k_layernorm.bias"] == (64,)
    assert shapes["showo.model.layers.0.mlp.fc1.weight"] == (8192, 2048)
    assert shapes["magvit.quantize.embedding"] == (8192, 13)
    vocabulary = config.vocabulary
    assert (vocabulary.pad, vocabulary.t2i, vocabulary.mmu, vocabulary.mask) == (50295, 50300, 50301, 58497)
    features = shapes["clip.embeddings.position_embedding.weight"][0] - 1
    assert features == 576
    longest = config.prefix_length + features + positions + 2
    assert longest <= config.phi.max_positions
