"""Every family keeps the promises of `reca.models.base`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import bagel_tiny
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import BUILD

from reca.models import FAMILIES, can_edit, family_class
from reca.models.base import DRAWING, Editor, Task, UnifiedModel
from reca.models.conformance import Conformance

SENTENCES = ("describe the image in detail", "a red cat", "two blue dogs")
TEXTS: dict[Task, Sequence[str]] = {
    "reconstruction": SENTENCES,
    "text_to_image": SENTENCES,
    "image_to_text": tuple(f"{text}\n{text.split()[0]}" for text in SENTENCES),
}


def test_no_family_is_left_out() -> None:
    assert set(BUILD) == set(FAMILIES)


@pytest.mark.parametrize("family", BUILD)
def test_family_keeps_the_promises(family: str, tmp_path: Path) -> None:
    BUILD[family]().save(tmp_path)
    suite = Conformance(BUILD[family], texts=TEXTS, source=tmp_path)
    assert set(suite.tasks) == set(DRAWING if family in ("openuni", "bagel") else TEXTS)
    checks = list(suite.run())
    assert [check for check in checks if not check.ok] == []
    assert len(checks) > 30


def released_in_parts(folder: Path) -> None:
    """OpenUni's own pickle over base models, which repeat a tensor of it in another value."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    bases = ("lmm.", "transformer.", "vae.")
    own = {name: value for name, value in weights.items() if not name.startswith(bases)}
    taken = "transformer.proj_out.bias"
    torch.save({"state_dict": {**own, taken: weights[taken]}}, folder / "openuni_tiny.pth")
    for base, file in zip(bases, ("model", "diffusion_pytorch_model", "diffusion_pytorch_model"), strict=True):
        part = {name.removeprefix(base): value for name, value in weights.items() if name.startswith(base)}
        part = {name: value + 1 if base + name == taken else value for name, value in part.items()}
        save_file(part, folder / base.rstrip(".") / f"{file}.safetensors")


def with_the_text_half(folder: Path) -> None:
    """Show-o's CLIP as it is published: with its text half, and without its image half's prefix."""
    path = folder / "clip" / "model.safetensors"
    vision = {name.removeprefix("vision_model."): value for name, value in load_file(path).items()}
    save_file({**vision, "text_model.final_layer_norm.weight": torch.ones(3), "logit_scale": torch.ones(1)}, path)


@pytest.mark.parametrize(("family", "layout"), [("openuni", released_in_parts), ("showo", with_the_text_half)])
def test_layouts_that_are_not_written_again_are_compared_by_what_was_taken(
    family: str, layout: Callable[[Path], None], tmp_path: Path
) -> None:
    BUILD[family]().save(tmp_path)
    layout(tmp_path)
    loaded = family_class(family)
    suite = Conformance(lambda: loaded.load(tmp_path), DRAWING, TEXTS, updates=0, source=tmp_path)
    assert [check for check in suite.files() if not check.ok] == []

    def spoiled() -> UnifiedModel:
        model = loaded.load(tmp_path)
        with torch.no_grad():
            next(iter(model.trainable().values())).view(-1)[0] += 1
        return model

    spoilt = Conformance(spoiled, DRAWING, TEXTS, updates=0, source=tmp_path)
    assert [check.quantity for check in spoilt.files() if not check.ok] == ["save: an untouched checkpoint as it came"]


@pytest.mark.parametrize("family", BUILD)
def test_who_edits_is_known_without_the_class(family: str) -> None:
    assert can_edit(family) == issubclass(family_class(family), Editor)
    assert can_edit(f"reca.models.{family}.model:{FAMILIES[family]}") == can_edit(family)


def test_an_editor_that_mixes_its_pictures_is_found() -> None:
    class Mixing(bagel_tiny.BagelModel):
        def edit(self, pixels, instructions, seeds, sampling):  # noqa: ANN001, ANN202  # pyright: ignore
            return super().edit(pixels, instructions, [seeds[0]] * len(seeds), sampling)

    def build() -> UnifiedModel:
        model = bagel_tiny.tiny_model()
        model.__class__ = Mixing
        return model

    suite = Conformance(build, DRAWING, TEXTS)
    failed = {check.quantity for check in suite.editing() if not check.ok}
    assert failed == {"edit: alone as in a batch", "edit: another seed gives another picture"}
