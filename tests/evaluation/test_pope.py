"""POPE: strict and official readings, figures, and the reader of the published files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from reca.evaluation.picture_questions import first_word
from reca.evaluation.pope import ACCURACY, F1, POPE, PRECISION, RECALL, SETS, YES_SHARE, official_answer, read_pope
from reca.evaluation.records import BenchmarkError, Record
from reca.evaluation.statistics import OVERALL


def write(folder: Path, rows: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    for group, pairs in rows.items():
        lines = [
            json.dumps({"question_id": n, "image": image, "text": f"Is there a {n} in the image?", "label": label})
            for n, (image, label) in enumerate(pairs, 1)
        ]
        (folder / f"coco_pope_{group}.json").write_text("\n".join(lines) + "\n")
    return str(folder)


def small(folder: Path) -> POPE:
    pairs = [("a.jpg", "yes"), ("a.jpg", "no"), ("b.jpg", "yes"), ("b.jpg", "no")]
    return read_pope(write(folder, dict.fromkeys(SETS, pairs)))


def records(bench: POPE, answers: Sequence[str]) -> list[Record]:  # pyright: ignore[reportMissingTypeArgument]
    return [bench.decide(item, 0, (answer,)) for item, answer in zip(bench.items, answers, strict=True)]


@pytest.mark.parametrize(
    ("answer", "strict", "official"),
    [
        ("yes", "yes", "yes"),
        ("No.", "no", "no"),
        ("**Yes**, there is no doubt. No", "yes", "no"),
        ("No, there is not", "no", "no"),
        ("nobody knows", None, "yes"),
        ("There is not.", None, "no"),
        ("There is. It is not", None, "yes"),
        ("NO", "no", "yes"),
        ("", None, "yes"),
    ],
)
def test_answers_are_read_strictly_and_as_the_script_does(answer: str, strict: str | None, official: str) -> None:
    assert first_word(answer) == strict
    assert official_answer(answer) == official


def test_figures_of_a_hand_counted_set(tmp_path: Path) -> None:
    bench = small(tmp_path)
    perfect, lazy = ["yes", "no", "yes", "no"], ["yes"] * 4
    totals = bench.totals(records(bench, perfect + lazy + ["no", "no", "yes", "maybe"]), "rules alone", 50)
    assert totals.unscored == 1
    strict = totals.strict[ACCURACY]
    assert [getattr(strict[group], "value", None) for group in SETS] == [1.0, 0.5, pytest.approx(2 / 3)]
    assert totals.score() == pytest.approx((1 + 0.5 + 2 / 3) / 3)
    # 'maybe' counts as yes: one hit of two yes answers, one of two true ones.
    assert {name: totals.official[name]["adversarial"] for name in (ACCURACY, PRECISION, RECALL, F1, YES_SHARE)} == {
        ACCURACY: 0.5,
        PRECISION: 0.5,
        RECALL: 0.5,
        F1: 0.5,
        YES_SHARE: 0.5,
    }
    assert totals.official[F1]["popular"] == pytest.approx(2 / 3)
    assert totals.official[ACCURACY][OVERALL] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert totals.benchmark == "POPE, COCO val2014, 12 of 9,000 items, incomplete"


def test_a_model_that_never_says_yes_has_no_division_by_zero(tmp_path: Path) -> None:
    bench = small(tmp_path)
    found = bench.official(records(bench, ["no"] * 12))
    assert (found[F1][OVERALL], found[PRECISION][OVERALL], found[ACCURACY][OVERALL]) == (0.0, 0.0, 0.5)


def test_intervals_resample_pictures_not_questions(tmp_path: Path) -> None:
    bench = small(tmp_path)
    totals = bench.totals(records(bench, ["yes", "no", "no", "yes"] * 3), "rules alone", 400)
    estimate = totals.strict[ACCURACY]["random"]
    assert estimate is not None
    assert (estimate.prompts, estimate.value, estimate.low, estimate.high) == (2, 0.5, 0.0, 1.0)


def test_the_reader_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"coco_pope_random\.json: no such file; get output/coco"):
        read_pope(str(tmp_path))
    small(tmp_path)
    write(tmp_path, {"popular": [("a.jpg", "maybe")]})
    with pytest.raises(BenchmarkError, match=r"coco_pope_popular\.json, line 1: label is 'maybe'"):
        read_pope(str(tmp_path))
    line = (tmp_path / "coco_pope_random.json").read_text().splitlines()[0]
    (tmp_path / "coco_pope_popular.json").write_text(f"{line}\n{line}\n")
    with pytest.raises(BenchmarkError, match=r"line 2 \(question_id 1\) repeats .*, line 1"):
        read_pope(str(tmp_path))
    (tmp_path / "coco_pope_popular.json").write_text('{"question_id": 1}\n')
    with pytest.raises(BenchmarkError, match="line 1: Object missing required field `image`"):
        read_pope(str(tmp_path))
