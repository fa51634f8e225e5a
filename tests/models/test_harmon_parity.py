"""The reference folder lies beside the checkout."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reca.models.errors import CheckpointError
from reca.models.parity import check_folder, main

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "harmon"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no reference tensors beside the checkout")


def test_harmon_agrees_with_the_published_code() -> None:
    checks = check_folder(GOLDEN)
    assert [check for check in checks if not check.ok] == []
    assert {check.quantity for check in checks} >= set(load_file(GOLDEN / "outputs.safetensors"))


def test_differences_of_every_kind_are_found(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "case", copy_function=shutil.copyfile)
    outputs = load_file(folder / "outputs.safetensors")
    changes = {
        "recon.z": 1e-4,
        "recon.mask": 1.0,
        "recon.llm_position_ids": 1,
        "recon.grad.proj_in.0.bias": 1e-6,
        "t2i.diff_vb": 1.0,
        "i2t.grad_norm.mar.z_proj.bias": 1e-4,
        "i2t.label_logits": 1e-4,
        "gen_t2i.step1.latent": 100.0,
        "gen_recon.prefill_inputs_embeds": 1e-4,
        "caption.tokens": 1,
        "vae.decoded": 1e-3,
        "schedule.gen_betas": 1e-9,
        "extra.thing": 0,
    }
    for name, change in changes.items():
        outputs[name] = outputs.get(name, torch.zeros(1)) + change
    save_file(outputs, folder / "outputs.safetensors")
    failed = {check.quantity for check in check_folder(folder) if not check.ok}
    assert failed == set(changes)


def test_without_guidance_every_row_is_an_image(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "case", copy_function=shutil.copyfile)
    settings = json.loads((folder / "config.json").read_text())
    settings["model"]["gen_t2i"]["cfg"] = 1.0
    (folder / "config.json").write_text(json.dumps(settings))
    inputs = load_file(folder / "inputs.safetensors")
    for name in [name for name in inputs if name.startswith("gen_t2i.") and name.endswith(".init_noise")]:
        inputs[name] = torch.cat([inputs[name], inputs[name] + 1])
    save_file(inputs, folder / "inputs.safetensors")
    found = {check.quantity: check for check in check_folder(folder) if check.quantity.startswith("gen_t2i.")}
    assert found["gen_t2i.step0.z_all"].ok
    assert not found["gen_t2i.step0.latent"].ok
    assert found["gen_t2i.step0.latent"].error < float("inf")
    # The recorded picture is one; both rows are drawn now.
    assert "expected [1, 5, 5, 16]" in found["gen_t2i.latents"].note


def test_what_is_not_built_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "case", copy_function=shutil.copyfile)
    settings = json.loads((folder / "config.json").read_text())
    settings["model"]["llm"]["use_sliding_window"] = True
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"config\.json: llm: sliding windows"):
        check_folder(folder)
    assert main([str(folder)]) == 1
