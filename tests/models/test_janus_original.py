"""DeepSeek's own layout of Janus-Pro. Names are built here module by module, not by the adapter's rules."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from janus_tiny import examples, noise, tiny_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from reca.config import SamplingConfig
from reca.models.detection import detect_family
from reca.models.errors import CheckpointError
from reca.models.janus.config import Processing, janus_pro_1b
from reca.models.janus.model import JanusProModel
from reca.models.janus.original import original_config, original_name
from reca.models.janus.tokenizer import Marks

Json = dict[str, Any]
Tensors = dict[str, Tensor]

CONFIG: Json = {
    "model_type": "multi_modality",
    "architectures": ["MultiModalityCausalLM"],
    "torch_dtype": "bfloat16",
    "vision_config": {
        "cls": "CLIPVisionTower",
        "model_type": "vision",
        "params": {
            "model_name": "siglip_large_patch16_384",
            "image_size": 16,
            "select_feature": "same",
            "select_layer": -1,
            "width": 24,
            "layers": 2,
            "heads": 2,
            "patch_size": 4,
        },
    },
    "aligner_config": {
        "cls": "MlpProjector",
        "model_type": "aligner",
        "params": {"depth": 2, "input_dim": 24, "n_embed": 32, "projector_type": "mlp_gelu"},
    },
    "gen_vision_config": {
        "cls": "VQ-16",
        "model_type": "gen_vision",
        "params": {
            "image_token_size": 32,
            "n_embed": 4,
            "ch": 32,
            "ch_mult": [1, 1, 1],
            "num_res_blocks": 1,
            "z_channels": 8,
        },
    },
    "gen_aligner_config": {
        "cls": "MlpProjector",
        "model_type": "gen_aligner",
        "params": {"depth": 2, "input_dim": 4, "n_embed": 32, "projector_type": "mlp_gelu"},
    },
    "gen_head_config": {
        "cls": "vision_head",
        "model_type": "gen_head",
        "params": {"image_token_embed": 32, "image_token_size": 32, "n_embed": 32},
    },
    "language_config": {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "torch_dtype": "bfloat16",
        "vocab_size": 28,
    },
}

PREPROCESSOR: Json = {
    "background_color": [127, 127, 127],
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.5, 0.4, 0.3],
    "image_processor_type": "VLMImageProcessor",
    "image_size": 16,
    "min_size": 14,
}
PROCESSOR: Json = {"processor_class": "VLChatProcessor", "sft_format": "deepseek", "num_image_tokens": 16}


def both(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    """Weight and bias of a module."""
    for kind in ("weight", "bias"):
        yield f"{ours}.{kind}", f"{theirs}.{kind}"


def pairs() -> Iterator[tuple[str, str]]:
    """transformers' name and DeepSeek's of everything stored alike in both."""
    tower, siglip = "vision_model.vision_tower", "model.vision_model"
    yield from both(f"{siglip}.embeddings.patch_embedding", f"{tower}.patch_embed.proj")
    yield from both(f"{siglip}.post_layernorm", f"{tower}.norm")
    for layer in range(2):
        ours, theirs = f"{siglip}.encoder.layers.{layer}", f"{tower}.blocks.{layer}"
        yield from both(f"{ours}.self_attn.projection_layer", f"{theirs}.attn.proj")
        yield from both(f"{ours}.layer_norm1", f"{theirs}.norm1")
        yield from both(f"{ours}.layer_norm2", f"{theirs}.norm2")
        yield from both(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1")
        yield from both(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2")
    for ours, theirs in (("model.aligner", "aligner"), ("model.generation_aligner", "gen_aligner")):
        yield from both(f"{ours}.fc1", f"{theirs}.layers.0")
        yield from both(f"{ours}.hidden_layers.0", f"{theirs}.layers.2")
    yield "model.generation_embeddings.weight", "gen_embed.weight"
    yield from both("model.generation_head.proj_out", "gen_head.output_mlp_projector")
    yield from both("model.generation_head.vision_head", "gen_head.vision_head")
    yield from tokenizer_pairs("model.vqmodel", "gen_vision_model")
    yield from language_pairs("model.language_model", "language_model.model")
    yield "lm_head.weight", "language_model.lm_head.weight"


def tokenizer_pairs(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.quantize.embedding.weight", f"{theirs}.quantize.embedding.weight"
    yield from both(f"{ours}.quant_conv", f"{theirs}.quant_conv")
    yield from both(f"{ours}.post_quant_conv", f"{theirs}.post_quant_conv")
    for half, levels, blocks, attention, scale in (
        ("encoder", "down", 1, 2, "downsample"),
        ("decoder", "up", 2, 0, "upsample"),
    ):
        mine, other = f"{ours}.{half}", f"{theirs}.{half}"
        for name in ("conv_in", "norm_out", "conv_out"):
            yield from both(f"{mine}.{name}", f"{other}.{name}")
        yield from block(f"{mine}.mid.block_1", f"{other}.mid.0")
        yield from attending(f"{mine}.mid.attn_1", f"{other}.mid.1")
        yield from block(f"{mine}.mid.block_2", f"{other}.mid.2")
        for level in range(3):
            for number in range(blocks):
                yield from block(f"{mine}.{levels}.{level}.block.{number}", f"{other}.conv_blocks.{level}.res.{number}")
                if level == attention:
                    names = (f"{mine}.{levels}.{level}.attn.{number}", f"{other}.conv_blocks.{level}.attn.{number}")
                    yield from attending(*names)
            if level < 2:
                yield from both(f"{mine}.{levels}.{level}.{scale}.conv", f"{other}.conv_blocks.{level}.{scale}.conv")


def block(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield from both(f"{ours}.{name}", f"{theirs}.{name}")


def attending(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for name in ("norm", "q", "k", "v", "proj_out"):
        yield from both(f"{ours}.{name}", f"{theirs}.{name}")


def language_pairs(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    names = [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    for layer in range(2):
        for name in (*names, "input_layernorm", "post_attention_layernorm"):
            yield f"{ours}.layers.{layer}.{name}.weight", f"{theirs}.layers.{layer}.{name}.weight"
    yield f"{ours}.embed_tokens.weight", f"{theirs}.embed_tokens.weight"
    yield f"{ours}.norm.weight", f"{theirs}.norm.weight"


def deepseek_tensors(model: JanusProModel) -> Tensors:
    """The model's weights as DeepSeek stores them, types mixed."""
    state, siglip = model.janus.state_dict(), "model.vision_model"
    found = {theirs: state[ours].clone() for ours, theirs in pairs()}
    for layer in range(2):
        for kind in ("weight", "bias"):
            rows = [state[f"{siglip}.encoder.layers.{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"vision_model.vision_tower.blocks.{layer}.attn.qkv.{kind}"] = torch.cat(rows)
    positions = state[f"{siglip}.embeddings.position_embedding.weight"]
    found["vision_model.vision_tower.pos_embed"] = positions.clone()[None]
    left = torch.Generator().manual_seed(3)
    found["vision_model.vision_tower.attn_pool.latent"] = torch.randn(1, 1, 24, generator=left)
    found["vision_model.vision_tower.attn_pool.kv.weight"] = torch.randn(48, 24, generator=left).bfloat16()
    found["gen_vision_model.quantize.codebook_used"] = torch.randn(64, generator=left)
    return found


def write(folder: Path, tensors: Tensors) -> None:
    """A folder as it is published: a pickle of tensors, and token names in a file of their own."""
    model = tiny_model()
    assert model.collator is not None
    model.collator.tokenizer.save_pretrained(str(folder))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    ends = {name: settings[name] for name in ("bos_token", "eos_token", "pad_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(ends))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizerFast"}))
    for name, content in (
        ("config.json", CONFIG),
        ("preprocessor_config.json", PREPROCESSOR),
        ("processor_config.json", PROCESSOR),
    ):
        (folder / name).write_text(json.dumps(content, indent=3))
    torch.save(tensors, folder / "pytorch_model.bin")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deepseek").mkdir()
    write(tmp_path / "deepseek", deepseek_tensors(tiny_model()))
    return tmp_path / "deepseek"


def test_every_name_of_the_model_is_covered() -> None:
    model = tiny_model()
    known = dict(pairs())
    split = {name for name in model.janus.state_dict() if name not in known}
    assert len(split) == 2 * 3 * 2 + 1
    assert {original_name(name) for name in known} == set(known.values())
    assert all(original_name(ours) == theirs for ours, theirs in known.items())
    assert original_name("model.aligner.hidden_layers.2.bias") == "aligner.layers.6.bias"


def test_the_same_weights_in_both_layouts_are_the_same_model(folder: Path, tmp_path: Path) -> None:
    tiny_model().save(tmp_path / "hub")
    first, second = JanusProModel.load(tmp_path / "hub"), JanusProModel.load(folder)
    assert detect_family(folder) == "janus"
    state = second.state_dict()
    assert state.keys() == first.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
    assert second.processing == Processing((0.4, 0.5, 0.6), (0.5, 0.4, 0.3), system_prompt=True)
    for task in ("reconstruction", "text_to_image"):
        texts = ["describe the image"]
        batches = [each.collate(task, examples(each, texts)) for each in (first, second)]
        losses = [
            each.loss(task, batch, each.draw(task, batch, [1])).total
            for each, batch in zip((first, second), batches, strict=True)
        ]
        assert torch.equal(*losses)
    drawn = [each.generate(["a red cat"], [5], SamplingConfig(guidance=2.0)) for each in (first, second)]
    assert torch.equal(*drawn)
    assert torch.equal(first.encode(noise(2))["features"], second.encode(noise(2))["features"])


def test_it_goes_out_bit_for_bit_as_it_came(folder: Path, tmp_path: Path) -> None:
    tensors = deepseek_tensors(tiny_model())
    mixed = {
        name: value.bfloat16() if value.ndim > 1 and "attn_pool" not in name else value
        for name, value in tensors.items()
    }
    torch.save(mixed, folder / "pytorch_model.bin")
    JanusProModel.load(folder).save(tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == mixed.keys()
    assert all(value.dtype == found[name].dtype and torch.equal(value, found[name]) for name, value in mixed.items())
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    JanusProModel.load(tmp_path / "out").save(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in found.items())


def test_what_was_trained_is_read_again_and_nothing_else_changed(folder: Path, tmp_path: Path) -> None:
    model = JanusProModel.load(folder)
    with torch.no_grad():
        model.trainable()["model.language_model.layers.1.mlp.up_proj.weight"].add_(1e-3)
    model.save(tmp_path / "out")
    came, found = (deepseek_tensors(tiny_model()), load_file(tmp_path / "out" / "model.safetensors"))
    changed = {name for name, value in came.items() if not torch.equal(value, found[name])}
    assert changed == {"language_model.model.layers.1.mlp.up_proj.weight"}
    again = JanusProModel.load(tmp_path / "out").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_without_the_unused_tensors_and_with_a_tied_head(folder: Path, tmp_path: Path) -> None:
    tensors = deepseek_tensors(tiny_model(tied=True))
    kept = {
        name: value
        for name, value in tensors.items()
        if "attn_pool" not in name and "codebook_used" not in name and "lm_head" not in name
    }
    torch.save(kept, folder / "pytorch_model.bin")
    model = JanusProModel.load(folder)
    assert model.janus.lm_head.weight is model.language.embed_tokens.weight
    model.save(tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == kept.keys()


QKV = "vision_model.vision_tower.blocks.1.attn.qkv.weight"
TABLE = "vision_model.vision_tower.pos_embed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda old: {QKV: old[QKV][:-3]}, rf"{QKV}: shape \[69, 24\], expected \[72, 24\]"),
        (lambda old: {TABLE: old[TABLE][0]}, rf"{TABLE}: shape \[16, 24\], expected \[1, 16, 24\]"),
        (lambda _: {QKV: None}, f"{QKV}: missing"),
        (lambda _: {"gen_embed.weight": None}, "gen_embed.weight: missing"),
        (lambda _: {"gen_embed.bias": torch.ones(2)}, "gen_embed.bias: not part of this model"),
        (lambda old: {QKV: old[QKV] * float("nan")}, f"{QKV}: 1728 values are NaN or infinite"),
    ],
)
def test_bad_tensors_are_named(folder: Path, change: Callable[[Tensors], Json], message: str) -> None:
    tensors = deepseek_tensors(tiny_model())
    changed = {**tensors, **change(tensors)}
    (folder / "pytorch_model.bin").unlink()
    kept = {name: value.contiguous() for name, value in changed.items() if value is not None}
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {message}"):
        JanusProModel.load(folder)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("vision_config", {"model_name": "siglip_so400m_patch14_384"}, "model_name is 'siglip_so400m_patch14_384'"),
        ("vision_config", {"select_layer": -2}, r"vision_config\.params\.select_layer is -2"),
        ("vision_config", {"image_size": 18}, r"vision_config\.image_size is 18, the other sizes need 16"),
        ("vision_config", {"image_size": "large"}, r"Expected `int`, got `str`.*vision_config\.params\.image_size"),
        ("aligner_config", {"projector_type": "linear"}, r"aligner_config\.params\.projector_type is 'linear'"),
        ("aligner_config", {"input_dim": 7}, r"aligner_config\.params\.input_dim is 7, but only 24"),
        ("aligner_config", {"n_embed": 16}, r"projection_dim is 16, the other sizes need 32"),
        ("gen_vision_config", {"image_token_size": 16}, r"gen_head_config\.params\.image_token_size is 32, .* 16"),
        ("gen_head_config", {"image_token_embed": 8}, r"image_token_embed_dim is 8"),
    ],
)
def test_bad_configurations_are_named(folder: Path, section: str, changes: Json, message: str) -> None:
    params = {**CONFIG[section]["params"], **changes}
    changed = {**CONFIG, section: {**CONFIG[section], "params": params}}
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}"):
        JanusProModel.load(folder)


def test_a_model_of_another_size_or_kind_is_named(folder: Path) -> None:
    wide = {**CONFIG, "language_config": {**CONFIG["language_config"], "intermediate_size": 96}}
    (folder / "config.json").write_text(json.dumps(wide))
    name = r"language_model\.model\.layers\.0\.mlp\.gate_proj\.weight"
    with pytest.raises(CheckpointError, match=rf"{name}: shape \[64, 32\], expected \[96, 32\]"):
        JanusProModel.load(folder)
    other = {name: value for name, value in CONFIG.items() if name != "gen_vision_config"}
    (folder / "config.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match=r"config\.json: .*`gen_vision_config`.*only Janus-Pro"):
        JanusProModel.load(folder)


def test_the_published_configuration_implies_the_published_sizes(tmp_path: Path) -> None:
    """What `deepseek-ai/Janus-Pro-1B` states: sizes of SigLIP and of the image tokenizer only as names."""
    changes: dict[str, Json] = {
        "vision_config": {"model_name": "siglip_large_patch16_384", "image_size": 384},
        "aligner_config": {**CONFIG["aligner_config"]["params"], "input_dim": 1024, "n_embed": 2048},
        "gen_vision_config": {"image_token_size": 16384, "n_embed": 8},
        "gen_aligner_config": {**CONFIG["gen_aligner_config"]["params"], "input_dim": 8, "n_embed": 2048},
        "gen_head_config": {"image_token_embed": 2048, "image_token_size": 16384, "n_embed": 2048},
    }
    language = {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "max_position_embeddings": 16384,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "num_key_value_heads": 16,
        "vocab_size": 102400,
        "_attn_implementation": "flash_attention_2",
    }
    sections = {name: {"cls": CONFIG[name]["cls"], "params": params} for name, params in changes.items()}
    config = {"model_type": "multi_modality", **sections, "language_config": language}
    (tmp_path / "config.json").write_text(json.dumps(config))
    marks = Marks(start=100_000, end=100_001, pad=100_015, image=100_581, begin_image=100_016, end_image=100_593)
    found, expected = original_config(tmp_path, marks), janus_pro_1b()
    for part in ("text_config", "vision_config", "vq_config"):
        mine, theirs = (getattr(each, part).to_dict() for each in (found, expected))
        assert {name: mine[name] for name in theirs} == theirs
    assert found.image_token_id == expected.image_token_id
