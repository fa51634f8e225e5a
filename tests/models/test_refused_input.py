"""Folders with files missing or of another size, and prompts that do not fit: every family names what is wrong.

Other families' folders, damaged weights, pickles that run code and tokenizers without marks: test_loading.py. Pictures
and grids: test_bad_pictures.py.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
import showo_tiny
import torch
from tiny_models import BUILD

from reca.config import SamplingConfig
from reca.models import FAMILIES, family_class
from reca.models.errors import CheckpointError
from reca.models.showo.collation import CutPrompt

NEEDED = {
    "showo": ("config.json", "tokenizer.json", "clip/config.json", "magvitv2/config.json", "clip/model.safetensors"),
    "harmon": ("config.json", "tokenizer.json", "model.safetensors"),
    "janus": ("config.json", "tokenizer.json", "model.safetensors"),
    "openuni": ("config.json", "lmm/config.json", "lmm/tokenizer.json", "transformer/config.json", "vae/config.json"),
    "bagel": ("llm_config.json", "vit_config.json", "tokenizer.json", "ema.safetensors", "ae.safetensors"),
}

WIDTH = {
    "showo": ("config.json", "phi", "model.safetensors"),
    "harmon": ("config.json", "llm", "model.safetensors"),
    "janus": ("config.json", "text_config", "model.safetensors"),
    "openuni": ("lmm/config.json", "llm_config", "model.safetensors"),
    "bagel": ("llm_config.json", "", "ema.safetensors"),
}
"""File and section with the width of the language model's MLP, and the weights it belongs to."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in folders.items():
        BUILD[family]().save(folder)
    return folders


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in NEEDED.items() for name in names])
def test_missing_files_are_named(saved: dict[str, Path], family: str, name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(saved[family], tmp_path / "copy")
    (folder / name).unlink()
    where = re.escape(str((folder / name).parent))
    what = re.escape(Path(name).name)
    if name.endswith(".safetensors"):
        what = rf"({what}|no weights found; looked for.*\.safetensors)"
    with pytest.raises(CheckpointError, match=rf"{where}.*{what}"):
        family_class(family).load(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_another_size_is_named_with_file_key_found_and_expected(
    saved: dict[str, Path], family: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved[family], tmp_path / "copy")
    name, section, weights = WIDTH[family]
    values = json.loads((folder / name).read_text())
    sizes = values[section] if section else values
    found = sizes["intermediate_size"]
    sizes["intermediate_size"] = found + 32
    (folder / name).write_text(json.dumps(values))
    shapes = rf"shape \[{found}(, \d+)?\], expected \[{found + 32}(, \d+)?\]"
    with pytest.raises(CheckpointError, match=rf"{folder / weights}: .*[\w.]+: {shapes}.*belong together"):
        family_class(family).load(folder)


@pytest.mark.parametrize(
    ("family", "name", "section", "changes"),
    [
        ("showo", "clip/config.json", "", {"num_attention_heads": 7}),
        ("showo", "config.json", "phi", {"activation": "none"}),
        ("harmon", "config.json", "llm", {"hidden_act": "none"}),
        ("openuni", "config.json", "connector", {"num_attention_heads": 7}),
        ("openuni", "config.json", "connector", {"num_attention_heads": 0}),
        ("bagel", "vit_config.json", "", {"num_attention_heads": 7}),
    ],
)
def test_sizes_that_the_libraries_refuse_are_named(
    saved: dict[str, Path], family: str, name: str, section: str, changes: dict[str, object], tmp_path: Path
) -> None:
    folder = shutil.copytree(saved[family], tmp_path / "copy")
    values = json.loads((folder / name).read_text())
    (values[section] if section else values).update(changes)
    (folder / name).write_text(json.dumps(values))
    with pytest.raises(
        CheckpointError, match=rf"{re.escape(str(folder))}: a model of these sizes cannot be built: \w+: .*belong"
    ):
        family_class(family).load(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_beyond_the_context_are_named(family: str) -> None:
    model, long, few = BUILD[family](), ["red cat " * 400], SamplingConfig(steps=2)
    side = model.geometry.size
    encoded = model.encode(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"prompt 0: .*\d+.*(context holds|prefix_length is) .*\d+.*shorten"):
        model.reconstruct(encoded, long, [1], few)
    with pytest.raises(ValueError, match=r"question 0: .*\d+.*context holds .*\d+.*shorten"):
        model.answer(encoded, long)
    if family != "showo":
        with pytest.raises(ValueError, match=r"prompt 0: .*\d+.*context holds .*\d+.*shorten"):
            model.generate(long, [1], few)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_beyond_the_context_are_refused(family: str) -> None:
    model = BUILD[family]()
    side = model.geometry.size
    encoded = model.encode(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"question 0: .*50[06].* context holds \d+[ ;]"):
        model.answer(encoded, ["red cat"], 500)


def test_showo_says_once_that_a_prompt_is_cut(recwarn: pytest.WarningsRecorder) -> None:
    model, few = showo_tiny.tiny_model(), SamplingConfig(steps=2)
    short = "red cat " * 5
    with pytest.warns(CutPrompt, match=r"prompt 1: the prompt has 12 ids but only the first 10 are read.*max_text=12"):
        drawn = model.generate([short, short + "two dogs"], [1, 1], few)
    assert torch.equal(drawn[0], drawn[1])
    recwarn.clear()
    model.generate([short, short + "two dogs"], [1, 1], few)
    assert not [warning for warning in recwarn if issubclass(warning.category, CutPrompt)]


def test_a_prompt_that_just_fits_gives_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    showo_tiny.tiny_model().generate(["red cat " * 5], [1], SamplingConfig(steps=1))
    assert not [warning for warning in recwarn if issubclass(warning.category, CutPrompt)]
