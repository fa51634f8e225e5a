"""MME: scores against re-typed counting, sums of tasks, both folder layouts, and what the reader refuses."""

import random
from pathlib import Path

import pytest
from PIL import Image

from reca.evaluation.mme import COGNITION, PERCEPTION, TASKS, official_answer, read_mme
from reca.evaluation.records import BenchmarkError
from reca.evaluation.statistics import OVERALL

ALL = [task for tasks in TASKS.values() for task in tasks]


def write(folder: Path, pictures: int = 3, tasks: list[str] = ALL) -> str:
    for number, task in enumerate(tasks):
        apart = number % 2 == 0
        questions = folder / task / "questions_answers_YN" if apart else folder / task
        images = folder / task / "images" if apart else folder / task
        for place in (questions, images):
            place.mkdir(parents=True, exist_ok=True)
        for n in range(pictures):
            (questions / f"{n}.txt").write_text(f"Is it {n}?\tYes\nIs it not {n}?\tNo\n")
            Image.new("RGB", (8, 8)).save(images / f"{n}.jpg")
    return str(folder)


def test_both_layouts_are_read(tmp_path: Path) -> None:
    bench = read_mme(write(tmp_path))
    assert len(bench.items) == 42
    assert [item.source for item in bench.items if item.key in ("existence/0", "count/0")] == [
        "existence/images/0.jpg",
        "count/0.jpg",
    ]
    assert [(q.text, q.label) for q in bench.items[1].asked] == [("Is it 1?", "yes"), ("Is it not 1?", "no")]


def test_scores_are_accuracy_plus_accuracy_plus_summed_over_tasks(tmp_path: Path) -> None:
    bench = read_mme(write(tmp_path, pictures=4))
    rng = random.Random(3)
    choices = ("Yes", "no", "Yes, it is", "No.", "yes")
    seen = {item.key: (rng.choice(choices), rng.choice(choices)) for item in bench.items}
    totals = bench.totals([bench.decide(item, 0, seen[item.key]) for item in bench.items], "rules alone", 20)
    for measure, tasks in TASKS.items():
        whole = 0.0
        for task in tasks:
            right = [
                [answer.lower().startswith(q.label) for q, answer in zip(item.asked, seen[item.key], strict=True)]
                for item in bench.items
                if item.group == task
            ]
            accuracy = sum(sum(pair) for pair in right) / (2 * len(right))
            expected = 100 * accuracy + 100 * sum(all(pair) for pair in right) / len(right)
            estimate = totals.strict[measure][task]
            assert estimate is not None
            assert estimate.value == pytest.approx(expected)
            assert totals.official[measure][task] == pytest.approx(expected)
            whole += expected
        estimate = totals.strict[measure][OVERALL]
        assert estimate is not None
        assert estimate.value == pytest.approx(whole)
        assert totals.official[measure][OVERALL] == pytest.approx(whole)
    assert totals.headline == PERCEPTION
    assert totals.complete


def test_perfect_answers_give_2000_and_800(tmp_path: Path) -> None:
    bench = read_mme(write(tmp_path, pictures=1))
    totals = bench.totals([bench.decide(item, 0, ("yes", "no")) for item in bench.items], "rules alone", 10)
    assert (totals.score(), totals.official[COGNITION][OVERALL]) == (2000.0, 800.0)


def test_unreadable_answers_are_unscored_and_officially_wrong(tmp_path: Path) -> None:
    bench = read_mme(write(tmp_path, pictures=1))
    record = bench.decide(bench.items[0], 0, ("yes", "I see a cat"))
    assert record.unscored is not None
    assert bench.official([record])[PERCEPTION]["existence"] == 50.0
    assert [official_answer(text) for text in ("a yes", "NO!", "well, yes", "know", "I am")] == [
        "other",
        "no",
        "other",
        "no",
        "other",
    ]


def test_missing_tasks_leave_no_sum(tmp_path: Path) -> None:
    bench = read_mme(write(tmp_path, pictures=1, tasks=["existence", "count"]))
    totals = bench.totals([bench.decide(item, 0, ("yes", "no")) for item in bench.items], "rules alone", 10)
    assert totals.score() is None
    assert totals.official[PERCEPTION][OVERALL] is None


def test_the_reader_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="holds no item; get MME_Benchmark_release_version"):
        read_mme(str(tmp_path))
    write(tmp_path, pictures=1, tasks=["existence", "count"])
    (tmp_path / "count/0.txt").write_text("Is it 0?\tYes\n")
    with pytest.raises(BenchmarkError, match=r"count/0\.txt: expected two lines of question, tab, Yes or No"):
        read_mme(str(tmp_path))
    (tmp_path / "count/0.txt").unlink()
    (tmp_path / "existence/images/0.jpg").unlink()
    with pytest.raises(BenchmarkError, match="its picture existence/images/0 is missing"):
        read_mme(str(tmp_path))
