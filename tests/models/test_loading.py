"""What loading and saving promise for every family: types, other families' folders, and bad files."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import BUILD
from torch import Tensor

from reca.models import FAMILIES, family_class, unknown_family
from reca.models.detection import detect_family
from reca.models.errors import CheckpointError

NETWORK = {family: "ema.safetensors" if family == "bagel" else "model.safetensors" for family in FAMILIES}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One checkpoint of each family, its floating-point tensors partly bfloat16, as released ones mix types."""
    folders = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in folders.items():
        BUILD[family]().save(folder)
        for path in folder.rglob("*.safetensors"):
            save_file({name: mixed(name, value) for name, value in load_file(path).items()}, path, {"format": "pt"})
    return folders


def mixed(name: str, value: Tensor) -> Tensor:
    """Matrices as bfloat16, everything else (norms, biases, codes) as it is."""
    matrix = value.ndim > 1 and value.is_floating_point() and not name.startswith(("encoder.", "decoder."))
    return value.bfloat16() if matrix else value


def tensors(folder: Path) -> dict[str, Tensor]:
    return {
        f"{path.relative_to(folder)}: {name}": value
        for path in folder.rglob("*.safetensors")
        for name, value in load_file(path).items()
    }


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype
        and torch.equal(value.contiguous().view(torch.uint8), second[name].contiguous().view(torch.uint8))
        for name, value in first.items()
        if value.ndim
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untouched_checkpoint_goes_out_as_it_came(saved: dict[str, Path], family: str, tmp_path: Path) -> None:
    came = tensors(saved[family])
    assert {value.dtype for value in came.values()} >= {torch.float32, torch.bfloat16}
    family_class(family).load(saved[family]).save(tmp_path)
    assert same_bits(came, tensors(tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_tensors_keep_float32_and_the_others_their_type(
    saved: dict[str, Path], family: str, tmp_path: Path
) -> None:
    model = family_class(family).load(saved[family])
    name, parameter = next((name, value) for name, value in model.trainable().items() if value.ndim > 1)
    with torch.no_grad():
        parameter += 1e-3
    model.save(tmp_path)
    came, found = tensors(saved[family]), tensors(tmp_path)
    changed = {key for key in came if not same_bits({key: came[key]}, {key: found[key]})}
    assert changed, name
    assert all(found[key].dtype == torch.float32 for key in changed)
    again = family_class(family).load(tmp_path)
    assert torch.equal(again.trainable()[name], parameter)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_held_in_the_type_asked_for(saved: dict[str, Path], family: str, tmp_path: Path) -> None:
    plain = family_class(family).load(saved[family])
    model = family_class(family).load(saved[family], dtype=torch.bfloat16)
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    full = dict(plain.named_parameters())
    assert all(torch.equal(value, full[name].bfloat16()) for name, value in model.named_parameters())
    buffers = dict(plain.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


@pytest.mark.parametrize("expected", FAMILIES)
@pytest.mark.parametrize("found", FAMILIES)
def test_the_family_of_a_folder_is_named(saved: dict[str, Path], found: str, expected: str) -> None:
    assert detect_family(saved[found]) == found
    if found != expected:
        message = f"{saved[found]}: .*family '{found}', expected '{expected}'.*model.family={found}"
        with pytest.raises(CheckpointError, match=message):
            family_class(expected).load(saved[found])


def test_published_folders_are_told_apart(tmp_path: Path) -> None:
    for family, content in {
        "showo": {"config.json": '{"num_vq_tokens": 256}'},
        "harmon": {"config.json": '{"model_type": "harmon"}'},
        "janus": {"config.json": '{"model_type": "multi_modality"}'},
        "bagel": {"config.json": "{", "llm_config.json": "{}", "vit_config.json": "{}"},
        "openuni": {"lmm/config.json": "{}", "transformer/config.json": "{}"},
    }.items():
        for name, text in content.items():
            (tmp_path / family / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / family / name).write_text(text)
        assert detect_family(tmp_path / family) == family
    assert detect_family(tmp_path) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_that_is_not_there_is_named(family: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone: no such folder"):
        family_class(family).load(tmp_path / "gone")


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def broken(saved: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a family's folder that may be changed."""

    def copy(family: str) -> Path:
        for path in saved[family].rglob("*"):
            if path.is_file():
                (tmp_path / path.relative_to(saved[family])).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path.relative_to(saved[family])).write_bytes(path.read_bytes())
        return tmp_path

    return copy


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_wants_to_run_code_is_refused(broken: Callable[[str], Path], family: str, writer: str) -> None:
    folder = broken(family)
    (folder / NETWORK[family]).unlink()
    path, marker = folder / "pytorch_model.bin", folder / "ran"
    if writer == "torch":
        torch.save({"a": Attack(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Attack(marker)}))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: .*run code"):
        family_class(family).load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_bad_weights_are_named_with_a_fitting_hint(broken: Callable[[str], Path], family: str) -> None:
    path = broken(family) / NETWORK[family]
    weights = {name: value.clone() for name, value in load_file(path).items()}
    # Not the embedding: Harmon stores it twice.
    name = next(key for key, value in weights.items() if value.ndim == 2 and "embed" not in key and "head" not in key)
    for changed, message in (
        ({**weights, name: torch.full_like(weights[name], float("nan"))}, "values are NaN or infinite.*diverged"),
        ({**weights, name: torch.zeros(7)}, r"shape \[7\], expected \[.*config\.json belong together"),
        ({**weights, "extra.weight": torch.ones(1)}, "not part of this model.*config.json belong together"),
    ):
        save_file(changed, path)
        with pytest.raises(CheckpointError, match=rf"{path.name}: .*{message}"):
            family_class(family).load(path.parent)
    save_file({key: value for key, value in weights.items() if key != name}, path)
    with pytest.raises(CheckpointError, match=f"{name}: missing"):
        family_class(family).load(path.parent)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_a_file_is_named(broken: Callable[[str], Path], family: str) -> None:
    path = broken(family) / NETWORK[family]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=rf"{path.name}: broken safetensors file"):
        family_class(family).load(path.parent)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizers_without_the_special_tokens_are_refused(broken: Callable[[str], Path], family: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = broken(family)
    place = folder / "lmm" if family == "openuni" else folder
    bare = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    for path in place.glob("*token*"):
        path.unlink()
    PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>").save_pretrained(place)
    with pytest.raises(CheckpointError, match=str(place)):
        family_class(family).load(folder)


def test_unknown_families_are_named() -> None:
    assert unknown_family("showo") is None
    assert unknown_family("package.module:Class") is None
    assert "'show' is unknown; nearest: 'showo' (of showo, harmon, janus, openuni, bagel)" in str(
        unknown_family("show")
    )
