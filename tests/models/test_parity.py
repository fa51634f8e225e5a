"""The reference folder lies beside the checkout; without it, only the machinery is tested."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reca.models import FAMILIES, family_class
from reca.models.errors import CheckpointError
from reca.models.parity import Check, check_folder, compare, compare_gradient, compare_norm, main

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "showo"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no reference tensors beside the checkout")


@needs_golden
def test_showo_agrees_with_the_published_code() -> None:
    checks = check_folder(GOLDEN)
    assert [check for check in checks if not check.ok] == []
    assert {check.quantity for check in checks} >= set(load_file(GOLDEN / "outputs.safetensors"))


@needs_golden
@pytest.mark.parametrize(("name", "delta"), [("t2i.logits", 1e-3), ("gen.final_codes", 1), ("extra.thing", 0)])
def test_a_difference_or_an_unknown_quantity_fails_the_command(
    tmp_path: Path, name: str, delta: float, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "case", copy_function=shutil.copyfile)
    outputs = load_file(folder / "outputs.safetensors")
    outputs[name] = outputs.get(name, torch.zeros(1)) + delta
    save_file(outputs, folder / "outputs.safetensors")
    assert main([str(folder)]) == 1
    assert "1 do not" in capsys.readouterr().out


@needs_golden
@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("", "mask_schedule", "linear"), ("generation", "schedule", "pow2"), ("showo", "w_clip_vit", False)],
)
def test_settings_that_are_not_implemented_are_refused_by_name(
    tmp_path: Path, part: str, name: str, value: object
) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "case", copy_function=shutil.copyfile)
    settings = json.loads((folder / "config.json").read_text())
    (settings[part] if part else settings)[name] = value
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=f"{name} is {value!r}, but only"):
        check_folder(folder)


@needs_golden
def test_a_recording_without_guidance_may_lack_the_unconditional_sequences(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "case", copy_function=shutil.copyfile)
    settings = json.loads((folder / "config.json").read_text())
    settings["generation"]["guidance_scale"] = 0.0
    (folder / "config.json").write_text(json.dumps(settings))
    outputs = load_file(folder / "outputs.safetensors")
    del outputs["gen.uncond_input_ids"]
    outputs["gen.attention_visible"] = outputs["gen.attention_visible"][: len(outputs["gen.input_ids"])].clone()
    save_file(outputs, folder / "outputs.safetensors")
    checks = {check.quantity: check for check in check_folder(folder)}
    assert checks["gen.attention_visible"].ok
    assert checks["gen.input_ids"].ok
    assert not checks["gen.step_cfg_logits"].ok


def test_folders_of_no_family_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model": "something else"}')
    with pytest.raises(CheckpointError, match=r"outputs.safetensors: file is missing.*reca.models.conformance"):
        check_folder(tmp_path)
    (tmp_path / "outputs.safetensors").touch()
    with pytest.raises(CheckpointError, match="none of the families"):
        check_folder(tmp_path)
    assert main([str(tmp_path), str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().out.replace("\n", "")


def test_missing_and_broken_files_of_tensors_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"showo": {}, "magvit": {}}')
    save_file({}, tmp_path / "outputs.safetensors")
    with pytest.raises(CheckpointError, match=r"inputs\.safetensors: file is missing"):
        check_folder(tmp_path)
    (tmp_path / "inputs.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(CheckpointError, match=r"inputs\.safetensors: broken"):
        check_folder(tmp_path)
    assert main([str(tmp_path)]) == 1


def test_gradients_are_compared_by_the_norm_of_their_difference() -> None:
    expected = torch.tensor([3.0, 4.0])
    assert compare_gradient("x", expected * 1.1, expected, 0.2).error == pytest.approx(0.1)
    assert not compare_gradient("x", expected * 1.1, expected, 0.05).ok
    assert not compare_gradient("x", None, expected, 1.0).ok
    assert not compare_gradient("x", torch.zeros(3), expected, 10.0).ok


def test_comparisons() -> None:
    assert compare("x", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), 0.1).error == 0.5
    assert not compare("x", torch.tensor([float("nan")]), torch.tensor([1.0]), 0.1).ok
    assert compare("x", torch.tensor([1, 2]), torch.tensor([1, 3]), 100.0) == Check("x", 1, 0, "entries that differ")
    assert not compare("x", torch.zeros(2), torch.zeros(3), 1.0).ok
    assert compare_norm("x", 1.1, 1.0, 0.2).ok
    assert not compare_norm("x", 1.1, 1.0, 0.05).ok


def test_families_load_by_name_and_unknown_ones_name_the_nearest() -> None:
    assert family_class("showo").family == "showo"
    assert all(family_class(name).family == name for name in FAMILIES)
    with pytest.raises(ValueError, match="'show-o' is unknown; nearest: 'showo'"):
        family_class("show-o")
