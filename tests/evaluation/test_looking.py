"""From pictures to records through a judge: batches, unreadable files, and continuing a stopped run; and answering."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from actor_stand_in import spread
from PIL import Image

from reca.config import ExecutionConfig
from reca.evaluation import looking
from reca.evaluation.answering import Examinee, question_pictures
from reca.evaluation.catalog import SHAPES
from reca.evaluation.geneval import Prompt, Requirement
from reca.evaluation.geneval_benchmark import GenEval, Sighting
from reca.evaluation.looking import kept_records, look
from reca.evaluation.picture_files import Pictures, find_pictures
from reca.evaluation.picture_questions import PictureQuestion
from reca.evaluation.pope import POPE
from reca.evaluation.records import BenchmarkError, Item
from reca.evaluation.tally import AllRefusedError
from reca.models.finite import MEND
from reca.models.showo.model import ShowoModel

ROOT = Path(__file__).resolve().parents[2]


class BrightJudge:
    """Sees a cat in every bright picture."""

    batches: list[int]

    def __init__(self, fails_at: int = -1) -> None:
        self.batches, self.fails_at = [], fails_at

    def see(self, asked: Sequence[Prompt], pictures: Sequence[Image.Image]) -> list[tuple[Sighting, ...]]:
        if len(self.batches) == self.fails_at:
            raise KeyboardInterrupt
        self.batches.append(len(pictures))
        assert len(asked) == len(pictures)
        bright = [np.asarray(picture).mean() > 128 for picture in pictures]
        return [(Sighting("cat", (0.0, 0.0, 1.0, 1.0), 0.9),) if b else () for b in bright]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are done in this process."""
    monkeypatch.setattr(looking, "spread", spread)


def cats(folder: Path, count: int = 6) -> tuple[GenEval, Pictures]:
    prompt = Prompt("single_object", "a cat", (Requirement("cat", 1),))
    items = tuple(Item(f"{n}", prompt.tag, "a cat", prompt, (f"{n}.png",)) for n in range(count))
    for n in range(count):
        Image.new("RGB", (4, 4), (255 * (n % 2),) * 3).save(folder / f"{n}.png")
    return GenEval(items), find_pictures(str(folder), items)


def judged(bench: GenEval, pictures: Pictures, judge: BrightJudge, work: Path, mend: str = MEND) -> list[Any]:
    return look(bench, pictures, lambda _: judge, (), str(work), SHAPES["geneval"], ExecutionConfig(), 4, mend=mend)


def test_records_come_in_the_order_of_the_items(tmp_path: Path) -> None:
    bench, pictures = cats(tmp_path)
    judge = BrightJudge()
    records = judged(bench, pictures, judge, tmp_path / "work")
    assert [record.scores["correct"] for record in records] == [0.0, 1.0] * 3
    assert [record.item for record in records] == [item.key for item in bench.items]
    assert judge.batches == [4, 2]


def test_unreadable_pictures_are_unscored_and_missing_ones_have_no_record(tmp_path: Path) -> None:
    bench, _ = cats(tmp_path)
    (tmp_path / "1.png").write_bytes(b"no picture")
    (tmp_path / "2.png").write_bytes((tmp_path / "3.png").read_bytes()[:50])
    (tmp_path / "5.png").unlink()
    records = judged(bench, find_pictures(str(tmp_path), bench.items), BrightJudge(), tmp_path / "work")
    assert [record.unscored for record in records] == [
        None,
        "the picture cannot be read",
        "the picture cannot be read",
        None,
        None,
    ]
    assert "1.png" in records[1].why[0]
    totals = bench.totals(records, "bright", 10)
    assert (totals.unscored, totals.missing, totals.complete) == (2, 1, False)


def test_a_stopped_run_continues_behind_its_last_batch(tmp_path: Path) -> None:
    bench, pictures = cats(tmp_path, 10)
    with pytest.raises(KeyboardInterrupt):
        judged(bench, pictures, BrightJudge(fails_at=2), tmp_path / "work")
    assert len(kept_records(str(tmp_path / "work"), SHAPES["geneval"])) == 8
    again = BrightJudge()
    records = judged(bench, pictures, again, tmp_path / "work")
    assert again.batches == [2]
    assert records == judged(bench, pictures, BrightJudge(), tmp_path / "other")


class BrokenJudge(BrightJudge):
    """Sees what is no number in every dark picture."""

    def see(self, asked: Sequence[Prompt], pictures: Sequence[Image.Image]) -> list[tuple[Sighting, ...]]:
        broken = (Sighting("nothing", (0.0, 0.0, 0.0, 0.0), float("nan")),)
        return [sightings or broken for sightings in super().see(asked, pictures)]


def test_a_judge_that_sees_no_number_in_anything_ends_the_stage_early(tmp_path: Path) -> None:
    bench, pictures = cats(tmp_path, 80)
    for path in pictures.found.values():
        Image.new("RGB", (4, 4)).save(path)
    judge, work = BrokenJudge(), tmp_path / "work"
    message = (
        r"^none of the first 32 of 80 items can be scored, so the rest was not tried: a box, score or colour is not a "
        r"number; take another; then run the same command again$"
    )
    with pytest.raises(AllRefusedError, match=message):
        look(
            bench,
            pictures,
            lambda _: judge,
            (),
            str(work),
            SHAPES["geneval"],
            ExecutionConfig(),
            4,
            mend="take another",
        )
    assert judge.batches == [4] * 8
    assert kept_records(str(work), SHAPES["geneval"]) == {}
    few = Pictures("", dict([*pictures.found.items()][:6]), (), ())
    with pytest.raises(AllRefusedError, match="none of 6 items can be scored"):
        judged(bench, few, BrokenJudge(), tmp_path / "few")
    # One picture that is judged lets the stage go on; the others are looked at again by the next run.
    Image.new("RGB", (4, 4), (255,) * 3).save(pictures.found["9", 0])
    records = judged(bench, pictures, BrokenJudge(), work)
    assert [record.item for record in records if record.unscored is None] == ["9"]
    assert [key for key, _ in kept_records(str(work), SHAPES["geneval"])] == ["9"]
    again = BrightJudge()
    assert all(record.unscored is None for record in judged(bench, pictures, again, work))
    assert sum(again.batches) == 79


def test_a_model_answers_each_question_about_its_picture(tmp_path: Path) -> None:
    from reca.data.scenes import render
    from reca.evaluation.understanding import held_out_scenes, questions

    rows = questions(12)
    for number, scene in enumerate(held_out_scenes(12)):
        Image.fromarray(render(scene)).save(tmp_path / f"{number}.png")
    items = tuple(
        Item(f"{n}", "random", asked, (PictureQuestion(asked, "yes"),), (f"{n}",), source=f"{index}.png")
        for n, (index, _, asked, _) in enumerate(rows)
    )
    pictures = question_pictures(POPE(items), str(tmp_path))
    images = [Image.open(pictures.found[item.key, 0]).convert("RGB") for item in items]
    examinee = Examinee(lambda: ShowoModel.load(ROOT / "checkpoints/tiny_showo"), "cpu", 5, 8)
    given = examinee.see([item.asked for item in items], images)
    assert all(len(answers) == 1 for answers in given)
    right = sum(answers[0] == answer for answers, (*_, answer) in zip(given, rows, strict=True))
    assert right >= 6  # the shipped base answers about three in four


def test_missing_pictures_are_named_before_the_model_is_asked(tmp_path: Path) -> None:
    items = (Item("1", "random", "?", (PictureQuestion("?", "yes"),), ("1",), source="absent.jpg"),)
    with pytest.raises(BenchmarkError, match=r"1 of 1 pictures are missing, such as absent\.jpg"):
        question_pictures(POPE(items), str(tmp_path))
