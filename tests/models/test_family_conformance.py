"""Every family keeps the promises of `reca.models.base`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import bagel_tiny
import harmon_tiny
import janus_tiny
import openuni_tiny
import pytest
import showo_tiny

from reca.models import FAMILIES
from reca.models.base import Task, UnifiedModel
from reca.models.conformance import Conformance

SENTENCES = ("describe the image in detail", "a red cat", "two blue dogs")
TEXTS: dict[Task, Sequence[str]] = {
    "reconstruction": SENTENCES,
    "text_to_image": SENTENCES,
    "image_to_text": tuple(f"{text}\n{text.split()[0]}" for text in SENTENCES),
}
DRAWING: tuple[Task, ...] = ("reconstruction", "text_to_image")

BUILD: dict[str, Callable[[], UnifiedModel]] = {
    "showo": showo_tiny.tiny_model,
    "harmon": harmon_tiny.tiny_model,
    "janus": janus_tiny.tiny_model,
    "openuni": openuni_tiny.tiny_model,
    "bagel": bagel_tiny.tiny_model,
}


def test_no_family_is_left_out() -> None:
    assert set(BUILD) == set(FAMILIES)


@pytest.mark.parametrize("family", BUILD)
def test_family_keeps_the_promises(family: str, tmp_path: Path) -> None:
    tasks: Sequence[Task] = DRAWING if family in ("openuni", "bagel") else tuple(TEXTS)
    BUILD[family]().save(tmp_path)
    checks = list(Conformance(BUILD[family], tasks, TEXTS, source=tmp_path).run())
    assert [check for check in checks if not check.ok] == []
    assert len(checks) > 30
