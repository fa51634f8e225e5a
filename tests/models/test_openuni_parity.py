"""The reference folder lies beside the checkout; without it, nothing here runs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reca.models.errors import CheckpointError
from reca.models.parity import check_folder, main

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "openuni"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no reference tensors beside the checkout")


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return shutil.copytree(GOLDEN, tmp_path / "case", copy_function=shutil.copyfile)


def test_openuni_agrees_with_the_published_code() -> None:
    checks = check_folder(GOLDEN)
    assert [check for check in checks if not check.ok] == []
    assert {check.quantity for check in checks} >= set(load_file(GOLDEN / "outputs.safetensors"))


@pytest.mark.parametrize(
    ("name", "delta"),
    [
        ("reca.query_hidden", 1e-3),
        ("gen.timesteps", 1),
        ("genimg.final_latents", 1e-2),
        ("grad_norm.reca.lmm.mlp1.1.weight", 2),
        ("grad_norm.t2i.meta_queries", 1e-3),
        ("grad.reca.projector.bias", 1e-3),
        ("grad_norm.reca.nothing", 0),
        ("extra.thing", 0),
    ],
)
def test_a_difference_or_an_unknown_quantity_fails(case: Path, name: str, delta: float) -> None:
    outputs = load_file(case / "outputs.safetensors")
    outputs[name] = outputs.get(name, torch.zeros(1)) + delta
    save_file(outputs, case / "outputs.safetensors")
    assert [check.quantity for check in check_folder(case) if not check.ok] == [name]


def test_settings_that_are_not_built_and_missing_inputs_are_named(case: Path) -> None:
    config = case / "config.json"
    good = config.read_text()
    config.write_text(json.dumps({**json.loads(good), "proj_type": "proj_enc"}))
    with pytest.raises(CheckpointError, match="proj_type is 'proj_enc'"):
        check_folder(case)
    assert main([str(case)]) == 1
    config.write_text(good)
    inputs = load_file(case / "inputs.safetensors")
    del inputs["reca.draw_u"]
    save_file(inputs, case / "inputs.safetensors")
    with pytest.raises(CheckpointError, match=r"reca\.draw_u"):
        check_folder(case)
