"""The reference folder lies beside the checkout; without it, these tests are skipped."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reca.models.parity import check_folder, main

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "bagel"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no reference tensors beside the checkout")


def test_bagel_agrees_with_the_published_code() -> None:
    checks = check_folder(GOLDEN)
    assert [check for check in checks if not check.ok] == []
    quantities = {check.quantity for check in checks}
    assert quantities >= set(load_file(GOLDEN / "outputs.safetensors"))
    norms = json.loads((GOLDEN / "grad_norms.json").read_text())
    batches = {f"grad_norms.json {name}.{mode}" for name in norms if name != "trace_delta" for mode in norms[name]}
    assert quantities >= batches | {"grad_norms.json trace_delta"}
    packed = {name for name in load_file(GOLDEN / "inputs.safetensors") if ".packed_" in name or ".mask." in name}
    assert quantities >= packed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(GOLDEN, tmp_path / "case", copy_function=shutil.copyfile)


def failed(folder: Path) -> list[str]:
    return [check.quantity for check in check_folder(folder) if not check.ok]


def test_differences_of_every_kind_are_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs, inputs = load_file(folder / "outputs.safetensors"), load_file(folder / "inputs.safetensors")
    for name, delta in {
        "reca.velocity_pred": 1e-4,
        "vae.decoded": 1e-4,
        "sample.t2i.x_t": 1e-4,
        "und.ce_loss": 1e-4,
        "generate_text.ids": 1,
        "sample.edit.kv_len_rope": 1,
        "trace.lr": 1e-5,
        "edit.grad_reca.total_norm": 1e-3,
    }.items():
        outputs[name] = outputs[name] + delta
    inputs["mix.packed_position_ids"] = inputs["mix.packed_position_ids"] + 1
    inputs["t2i.mask.1"] = ~inputs["t2i.mask.1"]
    save_file(outputs, folder / "outputs.safetensors")
    save_file(inputs, folder / "inputs.safetensors")
    norms = json.loads((folder / "grad_norms.json").read_text())
    norms["t2i"]["reca"]["vae2llm.bias"] *= 1.001
    norms["reca"]["reca"]["language_model.model.norm.weight"] = 1e-3
    (folder / "grad_norms.json").write_text(json.dumps(norms))
    sizes = json.loads((folder / "resize_cases.json").read_text())
    sizes[0]["out_wh"][0] += 16
    (folder / "resize_cases.json").write_text(json.dumps(sizes))
    assert main([str(folder)]) == 1
    assert "13 do not" in capsys.readouterr().out
    assert len(failed(folder)) == 13


def test_edits_are_told_by_their_draws_and_not_by_the_name_of_their_batch(folder: Path) -> None:
    for part in ("inputs", "outputs"):
        path = folder / f"{part}.safetensors"
        save_file({re.sub(r"^edit\.", "turned.", name): value for name, value in load_file(path).items()}, path)
    for name, old, new in (("grad_norms.json", '"edit": {', '"turned": {'), ("config.json", '"edit"', '"turned"')):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    assert failed(folder) == []


def test_pictures_and_texts_of_a_sample_come_in_the_order_of_its_splits(folder: Path) -> None:
    inputs = load_file(folder / "inputs.safetensors")
    # Sample 0 of `und` is [picture of 9 patches][question of 4][answer of 6]; let the picture follow the question.
    order = torch.tensor([*range(11, 17), *range(11), *range(17, 25)])
    place = torch.cat([order.argsort(), torch.arange(25, 53)])
    inputs["und.split_lens"][:3] = torch.tensor([6, 11, 8])
    inputs["und.attn_modes"][:3] = torch.tensor([0, 1, 0])
    for name in ("packed_vit_token_indexes", "ce_loss_indexes"):
        inputs[f"und.{name}"] = place[inputs[f"und.{name}"]]
    before, ids = place[inputs["und.packed_text_indexes"]].sort()
    inputs["und.packed_text_indexes"], inputs["und.packed_text_ids"] = before, inputs["und.packed_text_ids"][ids]
    inputs["und.packed_position_ids"][:25] = torch.tensor([*range(6), *[6] * 11, *range(7, 15)])
    save_file(inputs, folder / "inputs.safetensors")
    layout = {name for name in inputs if name.startswith(("und.packed_", "und.ce_", "und.split_", "und.attn_"))}
    assert len(layout) >= 9
    assert not layout & set(failed(folder))
