"""MMMU: strict and official readings of replies, figures weighed by questions, and the reader of the parquet files."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from reca.evaluation.mmmu import (
    ACCURACY,
    BY_DOMAIN,
    BY_SUBJECT,
    DOMAINS,
    MMMU,
    SEVERAL,
    SUBJECTS,
    read_mmmu,
    save_pictures,
)
from reca.evaluation.mmmu_rules import official_letter, official_open, strict_letter
from reca.evaluation.records import BenchmarkError
from reca.evaluation.statistics import OVERALL

OPTIONS = ("Rococo style", "a red line", "Baroque")


def png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), color).save(buffer, "PNG")
    return buffer.getvalue()


def row(key: str, answer: str, kind: str = "multiple-choice", **changes: Any) -> dict[str, Any]:
    options = str(list(OPTIONS)) if kind == "multiple-choice" else "[]"
    picture = {"bytes": png("red"), "path": f"{key}.png"}
    made = {"id": key, "question": f"What is {key}? <image 1>", "options": options, "image_1": picture}
    return {**made, "image_2": None, "answer": answer, "question_type": kind, "subfield": "x", **changes}


def write(folder: Path, subject: str, rows: Sequence[dict[str, Any]], name: str = "validation-00000-of-00001") -> str:
    (folder / subject).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / subject / f"{name}.parquet")
    return str(folder)


@pytest.fixture
def bench(tmp_path: Path) -> MMMU:
    write(tmp_path, "Music", [row("m1", "A"), row("m2", "C", question="<image 1> or <image 2>?")])
    write(tmp_path, "Math", [row("x1", "1.06", "open"), row("x2", "['24/7', '3.429']", "open"), row("x3", "B")])
    write(tmp_path, "Math", [row("hidden", "?")], "test-00000-of-00001")
    return read_mmmu(str(tmp_path))


@pytest.mark.parametrize(
    ("reply", "strict", "official"),
    [
        ("B", "B", "B"),
        ("(B) a red line.", "B", "B"),
        ("B. a red line", "B", None),
        ("It is (C), as (A) is older than that.", None, "A"),
        ("The answer is (C).", "C", "C"),
        ("A cat, or B , who knows", None, "B"),
        ("baroque.", "C", None),
        ("It must be the style called Baroque then", None, "C"),
        ("D", None, None),
        ("D.", None, None),
        ("b", None, None),
        ("maybe", None, None),
        ("", None, None),
    ],
)
def test_letters_are_read_strictly_and_as_the_script_does(reply: str, strict: str | None, official: str | None) -> None:
    assert strict_letter(reply, OPTIONS) == strict
    assert official_letter(reply, OPTIONS) == official


@pytest.mark.parametrize(
    ("reply", "answers", "right"),
    [
        ("1.06", ("1.06",), True),
        ("1.059", ("1.06",), True),
        ("The result is 1,234.", ("1234",), True),
        ("so the area = 30", ("30",), True),
        ("x = 30\nthus it is 36 watts", ("30",), False),
        ("The area is 30\nand that is all", ("30",), True),
        ("about 3e2", ("300",), True),
        ("the big dipper", ("Dipper",), True),
        ("-5", ("5",), False),
        ("m", ("m",), True),
        ("meters", ("m",), False),
        ("3.43", ("24/7", "3.429"), True),
        ("", ("5",), False),
        ("the answer is:", ("5",), False),
    ],
)
def test_open_answers_are_found_as_the_script_finds_them(reply: str, answers: Sequence[str], right: bool) -> None:
    assert official_open(reply, answers) is right


def test_figures_weigh_questions_alike_and_leave_out_what_cannot_be_read(bench: MMMU) -> None:
    replies = {"m1": "A", "m2": "C", "x1": "2", "x2": "24/7", "x3": "who knows"}
    totals = bench.totals([bench.decide(item, 0, (replies[item.key],)) for item in bench.items], "rules alone", 50)
    assert totals.score() == pytest.approx(2 / 3)
    assert (totals.unscored, totals.floor) == (2, 0.4)
    assert f"1 unscored: {SEVERAL}, such as item 'm2', sample 0" in totals.notes
    unread = "1 unscored: no letter of an option can be read, such as item 'x3', sample 0: answer 'who knows'"
    assert unread in totals.notes
    # The several-picture question was put with its first picture, and the unread letter is one of three at random.
    assert totals.official[ACCURACY][OVERALL] == pytest.approx((1 + 1 + 0 + 1 + 1 / 3) / 5)
    assert totals.official[BY_SUBJECT]["Math"] == pytest.approx((0 + 1 + 1 / 3) / 3)
    assert totals.official[BY_DOMAIN]["Business"] is None
    assert list(totals.strict[BY_DOMAIN]) == list(DOMAINS)
    assert list(totals.strict[BY_SUBJECT]) == list(SUBJECTS)
    science = totals.strict[BY_DOMAIN]["Science"]
    assert science is not None
    assert (science.value, science.prompts) == (0.5, 2)
    assert totals.benchmark == "MMMU, validation, 5 of 900 items, incomplete"


def test_an_empty_answer_is_unscored(bench: MMMU) -> None:
    assert bench.decide(bench.items[0], 0, (" ",)).unscored == "an empty answer"
    assert bench.decide(bench.items[0], 0, ()).unscored == "an empty answer"


def test_the_prompt_is_the_official_one(bench: MMMU) -> None:
    choice, opened = bench.items[0].prompt, bench.items[2].prompt
    assert choice.startswith(
        "What is m1? <image 1>\n(A) Rococo style\n(B) a red line\n(C) Baroque\n\nAnswer with the o"
    )
    assert opened == "What is x1? <image 1>\nAnswer the question using a single word or phrase."


def test_first_pictures_are_taken_out_once(bench: MMMU, tmp_path: Path) -> None:
    place = tmp_path / "pictures"
    save_pictures(str(tmp_path), str(place))
    assert sorted(path.name for path in place.iterdir()) == sorted(item.source or "" for item in bench.items)
    assert (place / "m1.png").read_bytes() == png("red")
    (place / "m1.png").write_bytes(b"kept")
    save_pictures(str(tmp_path), str(place))
    assert (place / "m1.png").read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("a", "D"), "question a: answer is 'D', expected a letter of its 3 options; the test split holds no"),
        (row("a", "A", options="none"), "question a: options are not a list: none; get the data set MMMU/MMMU"),
        (row("a", "A", question_type="odd"), "question_type is 'odd'; known: multiple-choice, open, short-answer"),
        ({"id": "a", "question": "b"}, "column options, answer, question_type is missing"),
    ],
)
def test_the_reader_names_what_is_wrong(bad: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=message.replace(".", r"\.")):
        read_mmmu(write(tmp_path, "Art", [bad]))


def test_absent_files_double_ids_and_absent_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="holds no item; get the data set MMMU/MMMU"):
        read_mmmu(str(tmp_path))
    write(tmp_path, "Art", [row("a", "A")])
    write(tmp_path, "Design", [row("a", "A", image_1=None)])
    with pytest.raises(BenchmarkError, match=r"row 1 \(id 'a'\) repeats .*, row 1 \(id 'a'\)"):
        read_mmmu(str(tmp_path))
    with pytest.raises(BenchmarkError, match="question a: holds no picture image_1"):
        save_pictures(str(tmp_path), str(tmp_path / "out"))
