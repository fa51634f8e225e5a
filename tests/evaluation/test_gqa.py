"""GQA: accuracy over questions and by type, strict and official comparison, and the reader."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from reca.evaluation.gqa import ACCURACY, BY_TYPE, GQA, read_gqa
from reca.evaluation.records import BenchmarkError
from reca.evaluation.statistics import OVERALL

ROWS = (("a", "verify", "yes"), ("a", "query", "tennis racket"), ("b", "query", "left"), ("c", "query", "red"))


def write(path: Path, rows: Sequence[tuple[str, str, str]] = ROWS) -> str:
    entries = {
        f"20{n}": {"imageId": image, "question": f"question {n}?", "answer": answer, "types": {"structural": kind}}
        for n, (image, kind, answer) in enumerate(rows)
    }
    path.write_text(json.dumps(entries))
    return str(path)


def bench(folder: Path) -> GQA:
    return read_gqa(write(folder / "questions.json"))


def test_accuracy_is_over_questions_not_over_types(tmp_path: Path) -> None:
    gqa = bench(tmp_path)
    answers = ("yes", "Tennis  Racket.", "right", "")
    totals = gqa.totals(
        [gqa.decide(item, 0, (answer,)) for item, answer in zip(gqa.items, answers, strict=True)], "rules alone", 50
    )
    assert totals.score() == pytest.approx(2 / 3)
    assert totals.unscored == 1
    estimate = totals.strict[BY_TYPE]["query"]
    assert estimate is not None
    assert (estimate.value, estimate.prompts) == (0.5, 2)
    assert OVERALL not in totals.strict[BY_TYPE]
    assert totals.strict[BY_TYPE]["logical"] is None
    assert totals.official[ACCURACY][OVERALL] == 0.25
    assert totals.official[BY_TYPE]["query"] == 0.0
    assert totals.floor == 0.5
    assert totals.benchmark == "GQA, testdev-balanced, 4 of 12,578 items, incomplete"


def test_the_reader_names_what_is_wrong(tmp_path: Path) -> None:
    gqa = bench(tmp_path)
    assert [(item.key, item.source) for item in gqa.items][2] == ("202", "b.jpg")
    with pytest.raises(BenchmarkError, match="structural type 'odd'; known: verify"):
        read_gqa(write(tmp_path / "odd.json", [("a", "odd", "yes")]))
    with pytest.raises(BenchmarkError, match=r"absent\.json: no such file; get testdev_balanced_questions\.json"):
        read_gqa(str(tmp_path / "absent.json"))
    (tmp_path / "cut.json").write_text('{"1": {"imageId": "a"}}')
    with pytest.raises(BenchmarkError, match="missing required field `question`"):
        read_gqa(str(tmp_path / "cut.json"))


def test_a_set_of_somebodys_own_is_not_titled_gqa(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "own.json"))
    entries = json.loads(path.read_text())
    for entry in entries.values():
        entry["set"] = "my street"
    path.write_text(json.dumps(entries))
    gqa = read_gqa(str(path))
    records = [gqa.decide(item, 0, ("yes",)) for item in gqa.items]
    assert gqa.totals(records, "rules alone", 10).benchmark == "my street, GQA's format, 4 items"
    assert gqa.totals(records[1:], "rules alone", 10).benchmark == "my street, GQA's format, 4 items, incomplete"
    del entries["202"]["set"]
    path.write_text(json.dumps(entries))
    with pytest.raises(
        BenchmarkError, match=r"own\.json: key '202' is of the set '', key '200' of the set 'my street'"
    ):
        read_gqa(str(path))
