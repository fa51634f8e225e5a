import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from openuni_tiny import WORDS, examples, tiny_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from reca.models import family_class
from reca.models.checkpoint import joined
from reca.models.errors import CheckpointError
from reca.models.openuni.config import OPENUNI_B_512, OPENUNI_L_512, OpenUniConfig
from reca.models.openuni.files import read_config
from reca.models.openuni.model import OpenUniModel
from reca.models.openuni.tokenizer import SPECIAL
from reca.models.openuni.understanding import published_state
from reca.models.words import build_word_tokenizer

Weights = dict[str, Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model().save(tmp_path)
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without(weights: Weights, prefixes: Iterable[str]) -> Weights:
    return {name: value for name, value in weights.items() if not name.startswith(tuple(prefixes))}


def of_part(weights: Weights, part: str) -> Weights:
    return {name.removeprefix(f"{part}."): value for name, value in weights.items() if name.startswith(f"{part}.")}


def write_shards(weights: Weights, folder: Path) -> None:
    """Two safetensors files and their index, as the hub keeps large models."""
    names = sorted(weights)
    files = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: weights[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


@pytest.fixture
def published(folder: Path) -> Path:
    """The same model as a released `.pth` with the trained parts only, beside the base models as downloaded."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    trained = without(weights, ["lmm.", "vae."])
    torch.save({"state_dict": trained, "meta": {"iter": 10}}, folder / "openuni_b_internvl3_1b_sana_0_6b_512.pth")
    write_shards(of_part(weights, "lmm"), folder / "lmm")
    base = {name: torch.zeros_like(value) for name, value in of_part(weights, "transformer").items()}
    save_file(base, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file(of_part(weights, "vae"), folder / "vae" / "diffusion_pytorch_model.safetensors")
    edit(folder / "scheduler" / "scheduler_config.json", beta_start=0.0001, solver_p=1)
    return folder


def same(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return set(state) == set(other) and all(torch.equal(value, other[name]) for name, value in state.items())


def test_a_saved_model_loads_bit_for_bit_and_works_alike(folder: Path, tmp_path: Path) -> None:
    model, loaded = tiny_model(), family_class("openuni").load(folder)
    assert isinstance(loaded, OpenUniModel)
    assert loaded.config == model.config
    assert same(model.state_dict(), loaded.state_dict())
    batches = [each.collate("reconstruction", examples(each, ["describe the image"])) for each in (model, loaded)]
    draws = model.draw("reconstruction", batches[0], [3])
    found = [
        each.loss("reconstruction", batch, draws).total for each, batch in zip((model, loaded), batches, strict=True)
    ]
    assert torch.equal(found[0], found[1])
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert {name for name, value in loaded.named_parameters() if value.requires_grad} == set(model.trainable())
    loaded.save(tmp_path / "again")
    first, second = (path / "model.safetensors" for path in (folder, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


def test_files_have_published_keys(folder: Path) -> None:
    names = set(load_file(folder / "model.safetensors"))
    assert set(tiny_model().trainable()) < names
    assert {
        "meta_queries",
        "projector.bias",
        "connector.layers.1.self_attn.out_proj.bias",
        "connector.layers.0.layer_norm2.weight",
        "lmm.vision_model.embeddings.class_embedding",
        "lmm.vision_model.embeddings.position_embedding",
        "lmm.vision_model.embeddings.patch_embedding.weight",
        "lmm.vision_model.encoder.layers.0.attn.qkv.bias",
        "lmm.vision_model.encoder.layers.1.attn.proj.weight",
        "lmm.vision_model.encoder.layers.1.ls2",
        "lmm.vision_model.encoder.layers.1.norm1.weight",
        "lmm.mlp1.3.bias",
        "lmm.language_model.model.layers.0.self_attn.q_proj.bias",
        "lmm.language_model.lm_head.weight",
        "transformer.transformer_blocks.1.attn2.to_out.0.weight",
        "vae.decoder.conv_out.bias",
    } < names
    assert not any("q_proj" in name or "layernorm_before" in name for name in names if "vision_model" in name)
    config = json.loads((folder / "lmm" / "config.json").read_text())
    assert (config["model_type"], config["ps_version"], config["downsample_ratio"]) == ("internvl_chat", "v2", 0.5)
    solver = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert (solver["_class_name"], solver["flow_shift"]) == ("DPMSolverMultistepScheduler", 3.0)


def test_a_partial_pth_is_filled_from_the_base_models(published: Path) -> None:
    assert same(tiny_model().state_dict(), OpenUniModel.load(published).state_dict())


def test_queries_alone_are_not_enough_and_missing_bases_are_named(published: Path) -> None:
    (path,) = published.glob("*.pth")
    content = torch.load(path)["state_dict"]
    for name, message in (
        ("meta_queries", "meta_queries: missing .1 keys.*no base model has it"),
        ("connector.", r"connector\.layers\.0.*missing .32 keys"),
    ):
        torch.save({"state_dict": without(content, [name])}, path)
        with pytest.raises(CheckpointError, match=message):
            OpenUniModel.load(published)
    torch.save({"state_dict": content}, path)
    shutil.move(published / "vae" / "diffusion_pytorch_model.safetensors", published / "away")
    with pytest.raises(CheckpointError, match=r"\.pth: vae\.\S+: missing .* and \S+/vae has no weights"):
        OpenUniModel.load(published)


def test_parts_of_a_part_may_come_from_both(published: Path) -> None:
    (path,) = published.glob("*.pth")
    content = torch.load(path)["state_dict"]
    torch.save({"state_dict": without(content, ["transformer.proj_out."])}, path)
    state = OpenUniModel.load(published).state_dict()
    expected = {**tiny_model().state_dict()}
    for name in ("transformer.proj_out.weight", "transformer.proj_out.bias"):
        expected[name] = torch.zeros_like(expected[name])  # the base folder of this test holds zeros
    assert same(expected, state)


def test_a_base_of_another_size_is_named(published: Path) -> None:
    edit(published / "vae" / "config.json", encoder_layers_per_block=[1, 1, 2])
    with pytest.raises(CheckpointError, match=r"vae/diffusion_pytorch_model\.safetensors: encoder\.\S+: missing|vae\."):
        OpenUniModel.load(published)


@pytest.mark.parametrize("name", ["lmm.vision_model.encoder.layers.0.attn.qkv.weight", "projector.bias"])
@pytest.mark.parametrize(
    ("kind", "message"), [("nan", "NaN"), ("shape", r"shape \[1\], expected"), ("extra", "not part of this model")]
)
def test_bad_tensors_are_named(folder: Path, name: str, kind: str, message: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    if kind == "extra":
        name += ".more"
    bad = {"nan": torch.full_like(weights.get(name, torch.ones(1)), float("nan"))}.get(kind, torch.ones(1))
    save_file({**weights, name: bad}, path)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {name}: .*{message}"):
        OpenUniModel.load(folder)


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


def test_files_that_are_no_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="broken safetensors"):
        OpenUniModel.load(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"no weights found.* or one \.pth file"):
        OpenUniModel.load(folder)
    torch.save({"meta_queries": Malicious()}, folder / "openuni.pth")
    with pytest.raises(CheckpointError, match=r"openuni\.pth.*would run code"):
        OpenUniModel.load(folder)
    torch.save({}, folder / "second.pth")
    with pytest.raises(CheckpointError, match=r"openuni\.pth, second\.pth, keep one"):
        OpenUniModel.load(folder)


def test_bfloat16_checkpoints_load_as_float32(tmp_path: Path) -> None:
    model = tiny_model()
    model.save(tmp_path, dtype=torch.bfloat16)
    weight = OpenUniModel.load(tmp_path).projector.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model.projector.weight.bfloat16().float())


def test_bad_configurations_are_named(folder: Path) -> None:
    cases: tuple[tuple[str, dict[str, object], str], ...] = (
        ("config.json", {"family": "harmon"}, "family 'harmon', expected 'openuni'"),
        ("config.json", {"colour": 1}, "unknown fields colour"),
        ("config.json", {"queries": "many"}, r"config\.json.*queries"),
        ("config.json", {"image_size": 30}, r"image_size=30 is no multiple of 4"),
        ("config.json", {"image_size": 2}, r"image_size=2 is no multiple of 4"),
        ("config.json", {"max_prompt": 60}, "max_prompt . queries = 65 exceeds"),
        ("config.json", {"image_context_id": 3}, "image_context_id=3"),
        ("config.json", {"vit_input_size": 40}, "vit_input_size=40 is no multiple of 14"),
        ("config.json", {"proj_type": "proj_enc"}, "hidden_size=32 must be 24 with proj_type='proj_enc'"),
        ("config.json", {"connector": {"hidden_size": 48}}, "hidden_size=48 must be 32 with proj_type='enc_proj'"),
        ("lmm/config.json", {"ps_version": "v1"}, r"lmm/config\.json: ps_version is 'v1'"),
        ("lmm/config.json", {"vision_config": {"qk_normalization": True}}, "qk_normalization is True"),
        ("lmm/config.json", {"vision_config": {"image_size": 30}}, "no multiple of 28"),
        ("lmm/config.json", {"llm_config": {"rope_scaling": {"type": "yarn"}}}, "rope_scaling is 'yarn'"),
        ("lmm/config.json", {"llm_config": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}}, "is 'yarn'"),
        ("lmm/config.json", {"llm_config": {"rope_parameters": {"rope_type": "default"}}}, "without rope_theta"),
        ("lmm/config.json", {"llm_config": None}, r"lmm/config\.json: llm_config is None, expected an object"),
        ("lmm/config.json", {"downsample_ratio": "half"}, "downsample_ratio is 'half', expected a number"),
        ("lmm/config.json", {"downsample_ratio": 7}, "downsample_ratio is 7, expected a number"),
        ("lmm/config.json", {"llm_config": {"tie_word_embeddings": True}}, "tie_word_embeddings is True"),
        ("transformer/config.json", {"guidance_embeds": True}, "guidance_embeds is True"),
        ("transformer/config.json", {"in_channels": 8}, "takes 8 channels .* gives 4"),
        ("vae/config.json", {"_class_name": "AutoencoderKL"}, "only 'AutoencoderDC' is built here"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "only 'flow_prediction'"),
        ("scheduler/scheduler_config.json", {"_class_name": "SCMScheduler"}, "only 'DPMSolverMultistepScheduler'"),
        ("scheduler/scheduler_config.json", {"algorithm_type": "sde-dpmsolver++"}, "scheduler_config.*algorithm_type"),
        ("scheduler/scheduler_config.json", {"solver_order": 4}, "scheduler_config.*solver_order"),
        ("scheduler/scheduler_config.json", {"solver_type": "euler"}, "scheduler_config.*solver_type"),
    )
    for name, changes, message in cases:
        path = folder / name
        good = path.read_text()
        edit(path, **changes)
        with pytest.raises(CheckpointError, match=message):
            OpenUniModel.load(folder)
        path.write_text(good)
    (folder / "vae" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="no JSON"):
        OpenUniModel.load(folder)
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"vae/config\.json: file is missing"):
        OpenUniModel.load(folder)


def test_the_rotary_base_is_found_where_transformers_5_writes_it(folder: Path) -> None:
    values = json.loads((folder / "lmm" / "config.json").read_text())
    del values["llm_config"]["rope_theta"]
    rope = {"rope_type": "default", "rope_theta": 500.0}
    edit(folder / "lmm" / "config.json", llm_config={**values["llm_config"], "rope_parameters": rope})
    assert OpenUniModel.load(folder).config.language.rope_theta == 500.0


def test_tokenizers_without_the_special_tokens_are_refused(folder: Path) -> None:
    lmm = folder / "lmm"
    for path in lmm.glob("*token*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"lmm: no tokenizer\.json"):
        OpenUniModel.load(folder)
    build_word_tokenizer(WORDS).save_pretrained(lmm)
    with pytest.raises(CheckpointError, match=r"no special tokens <\|im_start\|>, <\|im_end\|>, <img>"):
        OpenUniModel.load(folder)
    (lmm / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer cannot be read"):
        OpenUniModel.load(folder)


def test_the_tokenizer_files_of_the_hub_are_read(folder: Path) -> None:
    """InternVL3's folder holds vocab.json, merges.txt and Qwen2Tokenizer's configuration, no tokenizer.json."""
    lmm = folder / "lmm"
    for path in lmm.glob("*token*"):
        path.unlink()
    letters = [*"abcdefghijklmnopqrstuvwxyz.:", "Ċ", "Ġ", "G", "K"]
    (lmm / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
    (lmm / "merges.txt").write_text("#version: 0.2\n")
    added = {
        str(len(letters) + number): {"content": token, "special": True, "normalized": False}
        for number, token in enumerate([*SPECIAL, "<|endoftext|>"])
    }
    tokenizer = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "eos_token": SPECIAL[1]}
    (lmm / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    language = replace(tiny_model().config.language, vocab_size=len(letters) + len(added))
    model = tiny_model(image_context_id=len(letters) + 4, language=language, max_prompt=50)
    model.save(folder / "new")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "new" / "lmm" / name).unlink()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(lmm / name, folder / "new" / "lmm" / name)
    loaded = OpenUniModel.load(folder / "new")
    assert loaded.prompter is not None
    ids = loaded.prompter.captions(["cat"], ["prompt"], unconditional=False).ids[0].tolist()
    assert ids[:6] == [len(letters), *(letters.index(letter) for letter in "user"), letters.index("Ċ")]
    assert ids[-1] == len(letters) + 2


def test_published_configurations_of_the_parts_are_read(tmp_path: Path) -> None:
    files: dict[str, dict[str, object]] = {
        "config.json": {
            "family": "openuni",
            "connector": {"intermediate_size": 8960, "num_attention_heads": 24},
        },
        "lmm/config.json": {
            "architectures": ["InternVLChatModel"],
            "downsample_ratio": 0.5,
            "force_image_size": 448,
            "select_layer": -1,
            "ps_version": "v2",
            "llm_config": {
                "hidden_size": 1536,
                "intermediate_size": 8960,
                "num_hidden_layers": 28,
                "num_attention_heads": 12,
                "rope_scaling": {"factor": 2.0, "type": "dynamic"},
                "torch_dtype": "bfloat16",
            },
            "vision_config": {"image_size": 448, "qk_normalization": False, "drop_path_rate": 0.1},
        },
        "transformer/config.json": {
            "_class_name": "SanaTransformer2DModel",
            "_diffusers_version": "0.32.0",
            "num_attention_heads": 70,
            "num_layers": 20,
            "num_cross_attention_heads": 20,
            "cross_attention_head_dim": 112,
            "cross_attention_dim": 2240,
            "interpolation_scale": None,
        },
        "vae/config.json": {"_class_name": "AutoencoderDC", "scaling_factor": 0.41407},
        "scheduler/scheduler_config.json": {"flow_shift": 3.0, "use_flow_sigmas": True, "beta_end": 0.02},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    assert read_config(tmp_path) == OPENUNI_L_512
    edit(tmp_path / "scheduler" / "scheduler_config.json", shift=2.0)
    assert read_config(tmp_path).flow.shift == 2.0


@pytest.mark.parametrize(
    ("config", "width", "tensors", "millions"),
    [
        (OPENUNI_B_512, 896, (637, 96, 548), (304.0, 629.7, 52.4, 591.7)),
        (OPENUNI_L_512, 1536, (685, 96, 396), (304.0, 1776.3, 221.9, 1604.5)),
    ],
)
def test_real_models_have_the_released_shapes(
    config: OpenUniConfig, width: int, tensors: tuple[int, ...], millions: tuple[float, ...]
) -> None:
    with torch.device("meta"):
        model = OpenUniModel(config)
    state = {name: joined(value) for name, value in published_state(model.state_dict()).items()}
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert tuple(sum(name.startswith(part) for name in shapes) for part in ("lmm.", "connector.", "transf")) == tensors
    parts = ("lmm.vision_model.", "lmm.language_model.", "connector.", "transformer.")
    counts = [sum(value.numel() for name, value in state.items() if name.startswith(part)) for part in parts]
    assert tuple(round(count / 1e6, 1) for count in counts) == millions
    assert shapes["meta_queries"] == (256, width)
    assert shapes["projector.weight"] == (2304, width)
    assert shapes["connector.layers.5.mlp.fc1.weight"] == (config.connector.intermediate_size, width)
    assert shapes["lmm.vision_model.embeddings.position_embedding"] == (1, 1025, 1024)
    assert shapes["lmm.vision_model.encoder.layers.23.attn.qkv.weight"] == (3072, 1024)
    assert shapes["lmm.mlp1.1.weight"] == (width, 4096)
    assert shapes["lmm.language_model.lm_head.weight"] == (151674, width)
    assert (config.image_tokens, config.latent_size, config.vae.factor) == (256, 16, 32)
