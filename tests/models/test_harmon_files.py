import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harmon_tiny import tiny_config, tiny_model, with_latents
from safetensors.torch import load_file, save_file

from reca.models.autoencoder import published_state
from reca.models.checkpoint import read_tensors
from reca.models.errors import CheckpointError
from reca.models.harmon.config import HARMON_0_5B, HARMON_1_5B, HarmonConfig, read_config, write_config
from reca.models.harmon.files import HEAD
from reca.models.harmon.model import HarmonModel
from reca.models.harmon.text import build_word_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model().save(tmp_path)
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def split_release(folder: Path) -> None:
    """Turn a folder into the original release: a flat pickle without autoencoder, and the autoencoder's own file."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({name: value for name, value in weights.items() if not name.startswith("vae.")}, folder / "harmon_x.pth")
    images = {name.removeprefix("vae."): value for name, value in weights.items() if name.startswith("vae.")}
    torch.save({"model": {**images, "loss.logvar": torch.zeros(())}}, folder / "kl16.ckpt")


def shards(folder: Path) -> None:
    """Turn a folder into two shards with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    where = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({name: weights[name] for name in names if where[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def without_head(folder: Path) -> None:
    """Leave the tied output matrix out."""
    weights = load_file(folder / "model.safetensors")
    del weights[HEAD]
    save_file(weights, folder / "model.safetensors")


def wrapped(folder: Path) -> None:
    """Raw training output: the flat pickle inside a `state_dict`."""
    split_release(folder)
    weights = {name: value.clone() for name, value in read_tensors(folder / "harmon_x.pth")}
    torch.save({"state_dict": weights}, folder / "harmon_x.pth")


@pytest.mark.parametrize("layout", [None, split_release, shards, without_head, wrapped])
def test_every_published_layout_loads_bit_for_bit(folder: Path, layout: Callable[[Path], None] | None) -> None:
    if layout is not None:
        layout(folder)
    model, loaded = tiny_model(), HarmonModel.load(folder)
    assert loaded.config == model.config
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert loaded.network.llm.lm_head.weight is loaded.network.llm.model.embed_tokens.weight
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert set(loaded.trainable()) == set(model.trainable())
    batch = model.collate("image_to_text", with_latents(model, ["what is the cat?\nred"]))
    torch.testing.assert_close(
        loaded.loss("image_to_text", batch, {}).total, model.loss("image_to_text", batch, {}).total
    )


def test_what_came_in_goes_out_key_for_key_and_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    HarmonModel.load(folder).save(tmp_path / "again")
    first, second = (load_file(each / "model.safetensors") for each in (folder, tmp_path / "again"))
    assert set(first) == set(second)
    assert all(torch.equal(value, second[name]) and value.shape == second[name].shape for name, value in first.items())
    assert (tmp_path / "again" / "config.json").read_text() == (folder / "config.json").read_text()


def test_an_untied_output_matrix_is_a_weight_of_its_own(tmp_path: Path) -> None:
    sizes = replace(tiny_config().llm, tie_word_embeddings=False)
    model = tiny_model(llm=sizes)
    head, embeddings = model.network.llm.lm_head.weight, model.network.llm.model.embed_tokens.weight
    assert not torch.equal(head, embeddings)
    assert f"{HEAD}" in model.trainable()
    model.save(tmp_path)
    split_release(shutil.copytree(tmp_path, tmp_path / "split"))
    for folder in (tmp_path, tmp_path / "split"):
        loaded = HarmonModel.load(folder)
        assert loaded.config.llm == sizes
        assert torch.equal(loaded.network.llm.lm_head.weight, head)
        assert torch.equal(loaded.network.llm.model.embed_tokens.weight, embeddings)
    without_head(tmp_path)
    with pytest.raises(CheckpointError, match=r"llm\.lm_head\.weight: missing"):
        HarmonModel.load(tmp_path)


def test_a_tied_output_matrix_of_its_own_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    changed = weights[HEAD].clone()
    changed[-1, -1] += 1
    for layout in (None, split_release):
        save_file({**weights, HEAD: changed}, path)
        if layout is not None:
            layout(folder)
        with pytest.raises(CheckpointError, match=rf"{HEAD} differs from .*embed_tokens.*tie_word_embeddings"):
            HarmonModel.load(folder)


def test_a_tied_output_matrix_keeps_its_own_type(folder: Path, tmp_path: Path) -> None:
    path, name = folder / "model.safetensors", "llm.model.embed_tokens.weight"
    weights = load_file(path)
    held = weights[name].bfloat16()
    for head, embeddings in ((held, held.float()), (held.float(), held)):
        save_file({**weights, HEAD: head, name: embeddings}, path)
        HarmonModel.load(folder).save(tmp_path / "again")
        again = load_file(tmp_path / "again" / "model.safetensors")
        assert (again[HEAD].dtype, again[name].dtype) == (head.dtype, embeddings.dtype)
        assert torch.equal(again[HEAD], head)
        assert torch.equal(again[name], embeddings)


def test_bfloat16_checkpoints_load_as_float32(tmp_path: Path) -> None:
    model = tiny_model()
    model.save(tmp_path, dtype=torch.bfloat16)
    weight = HarmonModel.load(tmp_path).network.proj_in[0].weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model.network.proj_in[0].weight.bfloat16().float())


def test_files_have_published_keys_and_shapes(folder: Path) -> None:
    shapes = {name: tuple(value.shape) for name, value in load_file(folder / "model.safetensors").items()}
    assert shapes[HEAD] == shapes["llm.model.embed_tokens.weight"] == (64, 32)
    assert shapes["mar.encoder_pos_embed_learned"] == (1, 7, 24)
    assert shapes["mar.diffloss.net.res_blocks.1.adaLN_modulation.1.weight"] == (48, 16)
    assert (
        shapes["vae.encoder.down.2.attn.0.q.weight"]
        == shapes["vae.decoder.mid.attn_1.proj_out.weight"]
        == (32, 32, 1, 1)
    )
    assert {"vae.decoder.up.2.upsample.conv.weight", "vae.encoder.mid.block_2.norm1.weight"} <= set(shapes)


@pytest.mark.parametrize("name", ["mar.z_proj.weight", "vae.quant_conv.bias", "llm.model.norm.weight"])
def test_bad_tensors_are_named(folder: Path, name: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    for bad, message in (
        (torch.full_like(weights[name], float("nan")), "NaN"),
        (torch.zeros(1, 2, 3), r"shape \[1, 2, 3\], expected"),
    ):
        save_file({**weights, name: bad}, path)
        with pytest.raises(CheckpointError, match=f"model.safetensors: {name}: .*{message}"):
            HarmonModel.load(folder)
    save_file({key: value for key, value in weights.items() if key != name}, path)
    with pytest.raises(CheckpointError, match=f"{name}: missing"):
        HarmonModel.load(folder)


def test_weights_without_autoencoder_ask_for_its_file(folder: Path) -> None:
    split_release(folder)
    (folder / "kl16.ckpt").rename(folder / "away")
    with pytest.raises(CheckpointError, match=r"kl16\.ckpt"):
        HarmonModel.load(folder)


def test_more_than_one_pickle_is_ambiguous_and_none_is_an_error(folder: Path) -> None:
    split_release(folder)
    torch.save({}, folder / "harmon_y.pth")
    with pytest.raises(CheckpointError, match=r"harmon_x\.pth, harmon_y\.pth"):
        HarmonModel.load(folder)
    for path in folder.glob("*.pth"):
        path.unlink()
    with pytest.raises(CheckpointError, match="no weights found"):
        HarmonModel.load(folder)


def test_pickles_that_run_code_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": Path("/")}, folder / "harmon_x.pth")
    with pytest.raises(CheckpointError, match=r"harmon_x\.pth.*run code"):
        HarmonModel.load(folder)


def test_a_checkpoint_of_another_size_is_named(folder: Path) -> None:
    write_config(tiny_config(mar={"diffloss_w": 24}), folder)
    with pytest.raises(CheckpointError, match=r"mar\.diffloss.*shape \[.*16.*\], expected \[.*24"):
        HarmonModel.load(folder)


def test_tokenizers_without_the_chat_form_are_refused(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    good = json.loads((folder / "tokenizer.json").read_text())
    bad = json.loads(json.dumps(good))
    bad["added_tokens"] = [token for token in bad["added_tokens"] if token["content"] != "<|im_end|>"]
    del bad["model"]["vocab"]["<|im_end|>"]
    (folder / "tokenizer.json").write_text(json.dumps(bad))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<|endoftext|>"}))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: special tokens <\|im_end\|> are missing"):
        HarmonModel.load(folder)
    many = build_word_tokenizer([f"word{number}" for number in range(80)])
    assert isinstance(many, PreTrainedTokenizerFast)
    many.save_pretrained(str(folder))
    with pytest.raises(CheckpointError, match=r"ids up to \d+, but llm\.vocab_size is 64"):
        HarmonModel.load(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
        HarmonModel.load(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: file is missing"):
        HarmonModel.load(folder)


def test_bad_configurations_are_named(folder: Path) -> None:
    path = folder / "config.json"
    good = json.loads(path.read_text())
    for changes, message in (
        ({"model_type": "showo"}, 'expected "harmon"'),
        ({"llm": None}, 'no section "llm"'),
        ({"mar": {**good["mar"], "type": "mar_giant"}}, "mar_giant"),
        ({"mar": {**good["mar"], "patch_size": 3}}, "multiple of 12, one token"),
        ({"mar": {**good["mar"], "num_sampling_steps": "10,20"}}, "num_sampling_steps is '10,20'"),
        ({"mar": {**good["mar"], "vae_stride": 16}}, "vae_stride is 16"),
        ({"mar": {**good["mar"], "encoder_num_heads": 5}}, "no multiple of mar.encoder_num_heads=5"),
        ({"llm": {**good["llm"], "use_sliding_window": True}}, "sliding windows"),
        ({"llm": {**good["llm"], "hidden_size": "wide"}}, "hidden_size"),
        ({"llm": {**good["llm"], "rope_parameters": {"rope_type": "default"}}}, "rope_parameters has no rope_theta"),
        ({"reca": {"image_size": 2}}, "image_size is 2"),
        ({"reca": {"image_size": 64}}, "takes 259 positions"),
        ({"reca": {"colour": 1}}, "unknown fields.*colour"),
        ({"reca": {"guidance_schedule": "cubic"}}, "cubic"),
    ):
        path.write_text(json.dumps({**good, **changes}))
        with pytest.raises(CheckpointError, match=message) as caught:
            HarmonModel.load(folder)
        assert "config.json" in str(caught.value)
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: no JSON object: Input data was truncated"):
        HarmonModel.load(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="file is missing"):
        HarmonModel.load(folder)


def test_published_configurations_are_read(tmp_path: Path) -> None:
    mar = {"type": "mar_huge", "img_size": 256, "diffloss_d": 12, "diffloss_w": 1536, "num_sampling_steps": "100"}
    llm = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
    content = {
        "model_type": "harmon",
        "architectures": ["HarmonModel"],
        "llm": {**llm, "num_key_value_heads": 2, "vocab_size": 151936, "rope_theta": 1e6, "use_cache": True},
        "mar": {**mar, "label_drop_prob": 0.1},
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_config(tmp_path) == HARMON_1_5B
    edit(tmp_path / "config.json", llm={"rope_parameters": {"rope_theta": 1e6}}, mar={"type": "mar_base"})
    assert read_config(tmp_path) == HARMON_0_5B


@pytest.mark.parametrize(
    ("config", "counts", "entries"),
    [
        (HARMON_0_5B, (494_032_768, 207_924_768, 1_492_736, 1_492_608), 663),
        (HARMON_1_5B, (1_543_714_304, 942_403_104, 4_328_448, 4_328_192), 951),
    ],
)
def test_real_models_have_the_released_shapes(config: HarmonConfig, counts: tuple[int, ...], entries: int) -> None:
    with torch.device("meta"):
        model = HarmonModel(config)
    network = model.network
    parts = (network.llm, network.mar, network.proj_in, network.proj_out)
    assert tuple(sum(value.numel() for value in part.parameters()) for part in parts) == counts
    assert sum(value.numel() for value in model.vae.parameters()) == 66_456_019
    assert len(network.state_dict()) == entries
    images = published_state(model.vae)
    assert len(images) == 312
    assert tuple(images["encoder.down.4.attn.1.q.weight"].shape) == (512, 512, 1, 1)
    assert tuple(images["decoder.up.0.block.0.conv1.weight"].shape) == (128, 128, 3, 3)
    assert tuple(images["decoder.up.1.block.0.conv1.weight"].shape) == (128, 256, 3, 3)
    width, wide = config.mar.encoder_embed_dim, config.llm.hidden_size
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["mar.encoder_pos_embed_learned"] == shapes["mar.decoder_pos_embed_learned"] == (1, 320, width)
    assert shapes["mar.diffusion_pos_embed_learned"] == (1, 256, width)
    assert shapes["proj_in.0.weight"] == (wide, width)
    assert shapes["proj_out.2.weight"] == (width, wide)
    assert shapes["mar.diffloss.net.final_layer.linear.weight"] == (32, config.mar.diffloss_w)
    assert config.image_tokens == 1024
    assert config.block == 1088
