"""The reference folder lies beside the checkout."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reca.models.parity import check_folder

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
