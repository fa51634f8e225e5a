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
    settings = json.loads(good)
    for changes, message in (
        ({"ps_version": "v1"}, "ps_version is 'v1'"),
        ({"vision": {**settings["vision"], "norm_type": "rms_norm"}}, "norm_type is 'rms_norm'"),
        ({"sana": {**settings["sana"], "guidance_embeds": True}}, "guidance_embeds is True"),
        ({"freeze": {**settings["freeze"], "lmm": False}}, "lmm is False"),
        ({"proj_type": "proj_enc"}, "hidden_size=64 must be 48"),
    ):
        config.write_text(json.dumps({**settings, **changes}))
        with pytest.raises(CheckpointError, match=message):
            check_folder(case)
        assert main([str(case)]) == 1
    config.write_text(good)
    inputs = load_file(case / "inputs.safetensors")
    del inputs["reca.draw_u"]
    save_file(inputs, case / "inputs.safetensors")
    with pytest.raises(CheckpointError, match=r"reca\.draw_u"):
        check_folder(case)


def test_scales_up_to_one_draw_without_guidance(case: Path) -> None:
    """The published pipeline guides with scales above 1 only; the unconditional prompts are then read for nothing."""
    settings = json.loads((case / "config.json").read_text())
    for scale in (1.0, 0.5):
        settings["generation"]["cfg_scale"] = scale
        (case / "config.json").write_text(json.dumps(settings))
        failed = {check.quantity: check.error for check in check_folder(case) if not check.ok}
        drawn = ("step_latents_before", "step_cfg_velocity", "final_latents", "final_latents_over_scale")
        assert set(failed) == {f"{group}.{name}" for group in ("gen", "genimg") for name in drawn}
        assert all(error < float("inf") for error in failed.values())


def test_recordings_may_leave_groups_out(case: Path) -> None:
    for file in ("inputs", "outputs"):
        tensors = load_file(case / f"{file}.safetensors")
        kept = {name: value for name, value in tensors.items() if name.startswith(("gen.", "train_scheduler."))}
        save_file(kept, case / f"{file}.safetensors")
    checks = check_folder(case)
    assert {check.quantity for check in checks} == set(kept)
    assert all(check.ok for check in checks)


def test_prompts_with_an_image_keep_their_newest_positions(case: Path) -> None:
    """The cut goes through the image of the longest prompt; the other rows lose pads only."""
    mask = load_file(case / "inputs.safetensors")["reca.attention_mask"]
    settings = json.loads((case / "config.json").read_text())
    length = mask.shape[1] - 6
    (case / "config.json").write_text(json.dumps({**settings, "max_length": length}))
    outputs = load_file(case / "outputs.safetensors")
    outputs["reca.inputs_embeds"] = outputs["reca.inputs_embeds"][:, 6:].clone()
    outputs["reca.llm_attention_mask"] = outputs["reca.llm_attention_mask"][:, 6:].clone()
    save_file(outputs, case / "outputs.safetensors")
    found = {check.quantity: check for check in check_folder(case)}
    assert found["reca.inputs_embeds"].ok
    assert found["reca.llm_attention_mask"].ok
    assert all(found[name].ok for name in ("t2i.inputs_embeds", "genimg.final_latents"))
    assert not found["loss.reca_recon"].ok
