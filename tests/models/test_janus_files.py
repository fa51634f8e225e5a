import json
import pickle
from pathlib import Path

import pytest
import torch
from janus_tiny import WORDS, examples, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, JanusForConditionalGeneration

from reca.models.checkpoint import stored_names, write_sharded
from reca.models.errors import CheckpointError
from reca.models.janus.config import Processing, read_processing
from reca.models.janus.model import JanusProModel
from reca.models.janus.tokenizer import build_word_tokenizer, find_marks
from reca.models.words import build_word_tokenizer as build_plain_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model().save(tmp_path)
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_equal_models(first: JanusProModel, second: JanusProModel) -> None:
    state = second.state_dict()
    assert set(first.state_dict()) == set(state)
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


def test_a_saved_model_loads_bit_for_bit_and_works_alike(folder: Path, tmp_path: Path) -> None:
    model, loaded = tiny_model(), JanusProModel.load(folder)
    assert_equal_models(model, loaded)
    assert loaded.processing == model.processing
    batches = [each.collate("reconstruction", examples(each, ["describe the image"])) for each in (model, loaded)]
    found = [each.loss("reconstruction", batch, {}).total for each, batch in zip((model, loaded), batches, strict=True)]
    assert torch.equal(found[0], found[1])
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert {name for name, value in loaded.janus.named_parameters() if value.requires_grad} == set(model.trainable())
    loaded.save(tmp_path / "again")
    first, second = (load_file(where / "model.safetensors") for where in (folder, tmp_path / "again"))
    assert list(first) == list(second)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    for name in ("config.json", "generation_config.json", "processor_config.json", "tokenizer.json"):
        assert (folder / name).read_text() == (tmp_path / "again" / name).read_text()


def test_files_are_those_transformers_reads(folder: Path) -> None:
    model = tiny_model()
    theirs, report = JanusForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    state = model.janus.state_dict()
    assert set(theirs.state_dict()) == set(state) == set(load_file(folder / "model.safetensors"))
    assert all(torch.equal(value, state[name]) for name, value in theirs.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.image_token == "<image_placeholder>"
    assert tokenizer.boi_token_id == theirs.generation_config.generation_kwargs["boi_token_id"]


def test_files_that_transformers_wrote_are_read(tmp_path: Path) -> None:
    model = tiny_model()
    assert model.collator is not None
    model.janus.save_pretrained(tmp_path, max_shard_size="60KB")
    model.collator.tokenizer.save_pretrained(str(tmp_path))
    assert (tmp_path / "model.safetensors.index.json").is_file()
    loaded = JanusProModel.load(tmp_path)
    assert_equal_models(model, loaded)
    assert loaded.processing == Processing()


def test_large_models_are_written_in_shards(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    whole = sum(value.numel() * 4 for value in weights.values())
    (folder / "model.safetensors").unlink()
    write_sharded(weights, folder, shard_bytes=whole // 3)
    shards = sorted(path.name for path in folder.glob("model-*"))
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    assert len(shards) >= 3
    assert all((folder / name).stat().st_size < whole // 3 + 20_000 for name in shards)
    index = folder / "model.safetensors.index.json"
    assert stored_names(index) == set(weights)
    assert json.loads(index.read_text())["metadata"]["total_size"] == whole
    assert_equal_models(tiny_model(), JanusProModel.load(folder))
    (folder / shards[1]).unlink()
    with pytest.raises(CheckpointError, match=rf"{shards[1]}: file is missing"):
        JanusProModel.load(folder)


def test_a_checkpoint_without_language_head_uses_the_input_embedding(tmp_path: Path) -> None:
    model = tiny_model(tied=True)
    assert "lm_head.weight" not in model.trainable()
    model.save(tmp_path)
    assert "lm_head.weight" not in stored_names(tmp_path / "model.safetensors")
    loaded = JanusProModel.load(tmp_path)
    assert_equal_models(model, loaded)
    assert loaded.janus.lm_head.weight is loaded.language.embed_tokens.weight


def test_a_stored_language_head_is_not_tied_whatever_the_configuration_says(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.pop("tie_word_embeddings")
    (folder / "config.json").write_text(json.dumps(config))
    loaded = JanusProModel.load(folder)
    assert_equal_models(tiny_model(), loaded)
    assert not torch.equal(loaded.janus.lm_head.weight, loaded.language.embed_tokens.weight)


def test_bfloat16_checkpoints_load_as_float32_and_come_out_as_they_were(tmp_path: Path) -> None:
    model = tiny_model()
    model.save(tmp_path, dtype=torch.bfloat16)
    loaded = JanusProModel.load(tmp_path)
    weight = loaded.janus.lm_head.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model.janus.lm_head.weight.bfloat16().float())
    loaded.save(tmp_path / "again", dtype=torch.bfloat16)
    first, second = (load_file(where / "model.safetensors") for where in (tmp_path, tmp_path / "again"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_processor_files_are_read_in_both_published_forms(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "do_pad": True}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"use_default_system_prompt": False}))
    assert read_processing(tmp_path) == Processing((0.1, 0.2, 0.3), system_prompt=False)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"image_std": [1, 1]}}))
    with pytest.raises(CheckpointError, match=r"processor_config\.json.*image_std"):
        read_processing(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": 7}))
    with pytest.raises(CheckpointError, match=r"processor_config\.json: image_processor is 7, expected an object"):
        read_processing(tmp_path)


def test_bad_tensors_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "model.generation_head.proj_out.weight"
    for bad, message in (
        ({**weights, name: torch.full_like(weights[name], float("nan"))}, f"{name}: .*NaN"),
        ({**weights, name: weights[name][:-1].contiguous()}, rf"{name}: shape \[31, 32\], expected \[32, 32\]"),
        ({other: value for other, value in weights.items() if other != name}, f"{name}: missing"),
        ({**weights, "model.extra.weight": torch.ones(1)}, r"model\.extra\.weight: not part of this model"),
    ):
        save_file(bad, path)
        with pytest.raises(CheckpointError, match=f"model.safetensors: {message}"):
            JanusProModel.load(folder)


def test_a_checkpoint_of_another_size_is_named(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    edit(path, text_config={**config["text_config"], "intermediate_size": 96})
    with pytest.raises(CheckpointError, match=r"mlp\.up_proj\.weight: shape \[64, 32\], expected \[96, 32\]"):
        JanusProModel.load(folder)


def test_a_pickle_that_wants_to_run_code_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: .*run code"):
        JanusProModel.load(folder)


def test_bad_configurations_are_named(folder: Path) -> None:
    path = folder / "config.json"
    good = json.loads(path.read_text())
    vision, vq, text = good["vision_config"], good["vq_config"], good["text_config"]
    for changes, message in (
        ({"model_type": "llama"}, r"model_type is 'llama', expected \"janus\""),
        ({"vision_config": {**vision, "image_size": 18}}, "image_size is 18, the other sizes need 16"),
        ({"vision_config": {**vision, "image_size": 3}}, "image_size is 3, the other sizes need 4"),
        ({"vision_config": {**vision, "image_size": 32}}, "num_image_tokens is 16, the other sizes need 64"),
        ({"vision_config": {**vision, "projection_dim": 8}}, "projection_dim is 8, the other sizes need 32"),
        ({"vq_config": {**vq, "channel_multiplier": [1, 1]}}, "patch_size is 4, the other sizes need 2"),
        ({"vq_config": {**vq, "image_token_embed_dim": 8}}, "image_token_embed_dim is 8"),
        ({"image_token_id": 400}, "image_token_id is 400"),
        ({"image_token_id": 1}, r"tokenizer\.json: its image mark is id 21 .*expects id 1"),
        ({"text_config": {**text, "vocab_size": 24}}, r"tokenizer\.json.*of 26 ids.*at most 24"),
        ({"text_config": {**text, "hidden_size": "wide"}}, "hidden_size"),
    ):
        path.write_text(json.dumps({**good, **changes}))
        with pytest.raises(CheckpointError, match=message):
            JanusProModel.load(folder)
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: no JSON"):
        JanusProModel.load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: file is missing"):
        JanusProModel.load(folder)


def test_broken_generation_settings_are_named(folder: Path) -> None:
    for content in ("{", "[]", '{"pad_token_id": "x"}'):
        (folder / "generation_config.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"generation_config\.json: .*copy it again"):
            JanusProModel.load(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights found"):
        JanusProModel.load(folder)


def test_a_tokenizer_without_the_marks_is_named(folder: Path) -> None:
    build_plain_tokenizer(WORDS).save_pretrained(str(folder))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: .*pad_token, <image_placeholder>, <begin_of_image>"):
        JanusProModel.load(folder)


def test_marks_are_found_by_their_published_names() -> None:
    tokenizer = build_word_tokenizer(WORDS)
    marks = find_marks(tokenizer, "tiny")
    assert marks.image == tokenizer.convert_tokens_to_ids("<image_placeholder>")
    assert marks.start == tokenizer.bos_token_id
    assert len({*vars(marks).values()}) == 6
