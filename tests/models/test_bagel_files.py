import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bagel_tiny import examples, tiny_model
from safetensors.torch import load_file, save_file
from showo_tiny import tiny_model as tiny_showo

from reca.models import family_class
from reca.models.autoencoder import published_state
from reca.models.bagel import files
from reca.models.bagel.config import BAGEL_7B, BagelConfig, ImageRule, LanguageSizes, VaeSizes, read_config
from reca.models.bagel.model import BagelModel
from reca.models.bagel.tokenizer import MARKS
from reca.models.bagel.vae import Vae
from reca.models.errors import CheckpointError
from reca.models.words import build_word_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model().save(tmp_path)
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_saved_model_loads_bit_for_bit_and_works_alike(folder: Path, tmp_path: Path) -> None:
    model, loaded = tiny_model(), family_class("bagel").load(folder)
    assert isinstance(loaded, BagelModel)
    assert loaded.config == model.config
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    batch = loaded.collate("reconstruction", examples(model, ["describe the image"]))
    draws = model.draw("reconstruction", batch, [3])
    assert torch.equal(*(each.loss("reconstruction", batch, draws).total for each in (model, loaded)))
    assert {name for name, value in loaded.named_parameters() if value.requires_grad} == {
        name for name, value in model.named_parameters() if value.requires_grad
    }
    loaded.save(tmp_path / "again")
    for name in (files.NETWORK, files.AUTOENCODER, "config.json", "llm_config.json", "vit_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_files_have_published_keys(folder: Path) -> None:
    network, autoencoder = load_file(folder / "ema.safetensors"), load_file(folder / "ae.safetensors")
    for name in (
        "language_model.model.layers.1.self_attn.q_proj_moe_gen.bias",
        "language_model.model.layers.1.self_attn.k_norm.weight",
        "language_model.model.layers.0.mlp_moe_gen.gate_proj.weight",
        "language_model.model.layers.0.post_attention_layernorm_moe_gen.weight",
        "language_model.model.norm_moe_gen.weight",
        "vit_model.vision_model.encoder.layers.0.self_attn.out_proj.weight",
        "time_embedder.mlp.2.bias",
        "latent_pos_embed.pos_embed",
    ):
        assert name in network
    assert network["vit_model.vision_model.embeddings.patch_embedding.weight"].shape == (16, 192)
    assert autoencoder["encoder.mid.attn_1.q.weight"].shape == (8, 8, 1, 1)
    assert autoencoder["decoder.up.3.block.0.conv1.weight"].shape[1] == 8
    assert autoencoder["decoder.up.1.block.0.nin_shortcut.weight"].shape == (8, 16, 1, 1)
    assert set(tiny_model().trainable()) <= set(network)
    assert json.loads((folder / "vit_config.json").read_text())["num_hidden_layers"] == 3


def test_bfloat16_checkpoints_load_as_float32_and_export_the_same_bits(tmp_path: Path) -> None:
    model = tiny_model()
    model.save(tmp_path / "one", dtype=torch.bfloat16)
    loaded = BagelModel.load(tmp_path / "one")
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.network.llm2vae.weight, model.network.llm2vae.weight.bfloat16().float())
    loaded.save(tmp_path / "two", dtype=torch.bfloat16)
    for name in (files.NETWORK, files.AUTOENCODER):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_recas_release_replaces_the_network_file(folder: Path) -> None:
    (folder / files.RECA_NETWORK).write_bytes((folder / files.NETWORK).read_bytes())
    with pytest.raises(CheckpointError, match=r"both ema\.safetensors and model_bf16\.safetensors"):
        BagelModel.load(folder)
    (folder / files.NETWORK).unlink()
    assert torch.equal(BagelModel.load(folder).network.llm2vae.weight, tiny_model().network.llm2vae.weight)


@pytest.mark.parametrize("part", [files.NETWORK, files.AUTOENCODER])
def test_bad_tensors_of_either_file_are_named(folder: Path, part: str) -> None:
    weights = load_file(folder / part)
    name = next(iter(weights))
    for changed, message in (
        ({**weights, name: torch.full_like(weights[name], float("nan"))}, "values are NaN"),
        ({**weights, name: torch.zeros(7)}, r"shape \[7\], expected \["),
        ({key: value for key, value in weights.items() if key != name}, "missing"),
        ({**weights, "extra": torch.zeros(1)}, "not part of this model"),
    ):
        save_file(changed, folder / part)
        with pytest.raises(CheckpointError, match=f"{part}: .*{message}"):
            BagelModel.load(folder)


def test_missing_files_are_named(folder: Path) -> None:
    for name in (files.AUTOENCODER, "llm_config.json", "vit_config.json", "tokenizer.json"):
        (folder / name).rename(folder / "away")
        with pytest.raises(CheckpointError, match=f"{name}: file is missing"):
            BagelModel.load(folder)
        (folder / "away").rename(folder / name)
    (folder / files.NETWORK).unlink()
    with pytest.raises(CheckpointError, match="no weights found"):
        BagelModel.load(folder)


def test_pickles_that_run_code_are_refused(folder: Path) -> None:
    (folder / files.NETWORK).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"model": print}, protocol=2))
    with pytest.raises(CheckpointError, match="would run code"):
        BagelModel.load(folder)


def test_checkpoints_of_another_family_or_size_are_refused(folder: Path, tmp_path: Path) -> None:
    tiny_showo().save(tmp_path / "showo")
    with pytest.raises(CheckpointError, match="checkpoint of family 'showo', expected 'bagel'"):
        BagelModel.load(tmp_path / "showo")
    edit(folder / "llm_config.json", intermediate_size=64)
    with pytest.raises(CheckpointError, match=r"gate_proj\.weight: shape \[48, 32\], expected \[64, 32\]"):
        BagelModel.load(folder)


def test_bad_configurations_are_named(folder: Path) -> None:
    path = folder / "config.json"
    good = path.read_text()
    for changes, message in (
        ({"colour": 1}, "unknown fields: colour"),
        ({"image_size": "big"}, "image_size"),
        ({"image_size": 40}, "no multiple of the 16 pixels"),
        ({"image_size": 64}, r"image_size=64 is beyond the position table of 3 x 3"),
        ({"family": "showo"}, "family 'showo', expected 'bagel'"),
    ):
        edit(path, **changes)
        with pytest.raises(CheckpointError, match=message):
            BagelModel.load(folder)
        path.write_text(good)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="no JSON"):
        BagelModel.load(folder)


def test_parts_that_are_not_built_here_are_refused_by_name(folder: Path) -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 1e6}
    for name, changes, message in (
        ("llm_config.json", {"hidden_act": "gelu"}, "hidden_act is 'gelu', but only 'silu'"),
        ("llm_config.json", {"rope_scaling": {"type": "yarn"}}, "rope_scaling is .*yarn"),
        ("llm_config.json", {"rope_parameters": yarn}, "rope_type is 'yarn', but only 'default'"),
        ("llm_config.json", {"rope_parameters": {"rope_type": "default"}}, "without rope_theta"),
        ("vit_config.json", {"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu'"),
    ):
        good = (folder / name).read_text()
        edit(folder / name, **changes)
        with pytest.raises(CheckpointError, match=rf"{name}: .*{message}"):
            BagelModel.load(folder)
        (folder / name).write_text(good)


def test_the_rotary_base_is_found_where_transformers_5_has_it(folder: Path) -> None:
    values = json.loads((folder / "llm_config.json").read_text())
    del values["rope_theta"]
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    (folder / "llm_config.json").write_text(json.dumps({**values, **rope}))
    assert BagelModel.load(folder).config.language.rope_theta == 500.0


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="must divide each other"):
        LanguageSizes(num_key_value_heads=3)
    with pytest.raises(ValueError, match="lower norm_groups"):
        VaeSizes(channels=20)
    with pytest.raises(ValueError, match=r"condition\.longest=1400 is beyond the position table of 70 x 70"):
        BagelConfig(condition=ImageRule(1400, 224, 14))


def test_the_encoder_begins_at_its_base_width_whatever_its_first_level_has() -> None:
    vae = Vae(VaeSizes(8, (3, 1), blocks=1, latent_channels=4, norm_groups=4))
    shapes = {name: tuple(value.shape) for name, value in published_state(vae.autoencoder).items()}
    assert shapes["encoder.conv_in.weight"] == (8, 3, 3, 3)
    assert shapes["encoder.down.0.block.0.nin_shortcut.weight"] == (24, 8, 1, 1)
    assert shapes["encoder.down.0.downsample.conv.weight"] == (24, 24, 3, 3)
    assert shapes["decoder.norm_out.weight"] == (24,)
    mean, deviation = vae.moments(torch.zeros(1, 3, 4, 6))
    assert mean.shape == deviation.shape == (1, 4, 2, 3)
    assert vae.decode(mean).shape == (1, 3, 4, 6)
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def test_tokenizers_without_the_marks_or_too_large_are_refused(folder: Path) -> None:
    edit(folder / "llm_config.json", vocab_size=10)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: .*vocab_size 10"):
        BagelModel.load(folder)
    build_word_tokenizer(["a cat"]).save_pretrained(str(folder))
    with pytest.raises(CheckpointError, match=r"does not know <\|im_start\|>.*<\|vision_end\|>"):
        BagelModel.load(folder)


def test_published_configurations_are_read(tmp_path: Path) -> None:
    published = {
        "llm_config.json": {"hidden_size": 3584, "vocab_size": 152064, "num_hidden_layers": 28, "use_cache": True},
        "vit_config.json": {"hidden_size": 1152, "num_hidden_layers": 27, "image_size": 980, "patch_size": 14},
        "config.json": {"architectures": ["BagelForConditionalGeneration"], "max_latent_size": 64},
    }
    for name, content in published.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert read_config(tmp_path) == BAGEL_7B
    (tmp_path / "config.json").unlink()
    assert read_config(tmp_path) == BAGEL_7B
    edit(tmp_path / "llm_config.json", num_hidden_layers=2)
    assert read_config(tmp_path) == replace(BAGEL_7B, language=LanguageSizes(num_hidden_layers=2))


def test_the_real_model_has_the_released_shapes() -> None:
    with torch.device("meta"):
        model = BagelModel(BAGEL_7B)
    network = files.network_tensors(model.network)
    assert len(network) == 1223
    assert sum(value.numel() for value in network.values()) == 14_607_260_128
    autoencoder = published_state(model.vae.autoencoder)
    assert len(autoencoder) == 244
    assert sum(value.numel() for value in autoencoder.values()) == 83_819_683

    def count(*starts: str, generation: bool = False) -> int:
        chosen = {name: value for name, value in network.items() if name.startswith(starts)}
        return sum(value.numel() for name, value in chosen.items() if ("_moe_gen" in name) == generation)

    experts = ("language_model.model.layers.", "language_model.model.norm")
    assert count(*experts) == count(*experts, generation=True) == 6_525_628_928
    assert count("language_model.model.embed_tokens.", "language_model.lm_head.") == 1_089_994_752
    assert count("vit_model.") == 402_552_736
    assert count("connector.") == 16_980_992
    assert count("vit_pos_embed.", "latent_pos_embed.") == 32_241_664
    assert count("time_embedder.") == 13_769_728
    assert (count("vae2llm."), count("llm2vae.")) == (232_960, 229_440)
    assert sum(value.numel() for value in model.trainable().values()) == 6_539_861_056
    shapes = {name: tuple(value.shape) for name, value in network.items()}
    assert shapes["language_model.model.layers.27.self_attn.v_proj_moe_gen.weight"] == (512, 3584)
    assert shapes["vit_model.vision_model.embeddings.patch_embedding.weight"] == (1152, 588)
    assert shapes["vit_model.vision_model.embeddings.position_embedding.weight"] == (4900, 1152)
    assert shapes["latent_pos_embed.pos_embed"] == (4096, 3584)
    assert {name: tuple(value.shape) for name, value in autoencoder.items()}["decoder.mid.attn_1.proj_out.weight"] == (
        (512, 512, 1, 1)
    )
    assert model.geometry.size == 1024


def test_marks_of_the_tiny_tokenizer_are_its_last_ids() -> None:
    model = tiny_model()
    assert model.collator is not None
    size = len(model.collator.tokenizer)
    marks = model.collator.marks
    assert (marks.begin, marks.end, marks.image_begin, marks.image_end) == tuple(range(size - len(MARKS), size))
