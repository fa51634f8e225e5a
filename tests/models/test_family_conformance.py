"""Every family keeps the promises of `reca.models.base`."""

from collections.abc import Sequence
from pathlib import Path

import bagel_tiny
import pytest
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
