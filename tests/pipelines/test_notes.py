from pathlib import Path

import pytest

from pipelines.stages import notes
from reca.config import TrainingConfig
from reca.pretraining.card import READ_WITH, card_notes

BASES = sorted((Path(__file__).resolve().parents[2] / "checkpoints").glob("tiny_*"))


def test_notes_repeat_what_the_card_of_the_base_says(tmp_path: Path) -> None:
    assert len(notes(tmp_path, TrainingConfig())) == 2
    (tmp_path / "README.md").write_text(f"# base\n\n{READ_WITH}\n\n- Its tower saw labels.\n", encoding="utf-8")
    assert "Its tower saw labels." in notes(tmp_path, TrainingConfig())


def test_notes_name_a_departure_from_the_paper(tmp_path: Path) -> None:
    assert "control arm" in notes(tmp_path, TrainingConfig(arm="sft"))[-1]
    assert "weight 0.5); the paper uses none" in notes(tmp_path, TrainingConfig(lambda_t2i=0.5))[-1]


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
def test_every_shipped_base_says_how_it_was_taught(base: Path) -> None:
    assert any("word labels" in note or "spell" in note for note in card_notes((base / "README.md").read_text("utf-8")))
