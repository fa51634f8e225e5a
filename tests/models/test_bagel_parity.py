"""The reference folder lies beside the checkout; without it, these tests are skipped."""

import json
import shutil
from pathlib import Path

import pytest
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
