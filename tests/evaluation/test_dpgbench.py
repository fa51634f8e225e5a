import pytest

from reca.evaluation.dpgbench import (
    LEVEL_1,
    LEVEL_2,
    SCORE,
    DPGBench,
    Question,
    counted_answers,
    official_picture,
    official_questions,
    read_answer,
)
from reca.evaluation.records import Item

CATEGORIES = ("entity - whole", "attribute - color", "relation - spatial")


def questions(*parents: tuple[int, ...], row: int = 0) -> tuple[Question, ...]:
    """Numbered from 1, in table order."""
    return tuple(
        Question(number + 1, f"q{number + 1}?", chosen, CATEGORIES[number % 3], row + number)
        for number, chosen in enumerate(parents)
    )


def answers(text: str) -> dict[int, str]:
    """`yyn` to yes, yes, no."""
    return {number: {"y": "yes", "n": "no", "m": "maybe"}[letter] for number, letter in enumerate(text, start=1)}


FIRST, SECOND = questions((0,), (1,), (2,)), questions((0,), (0,), (1, 2), row=3)
BENCH = DPGBench(
    (Item("a", "", "a", FIRST, ("a_0.png", "a_1.png")), Item("b", "", "b", SECOND, ("b_0.png", "b_1.png")))
)
JUDGE = BENCH.judges[0]


def decide(item: int, sample: int, *cells: str):  # noqa: ANN201
    return BENCH.decide(BENCH.items[item], sample, tuple(map(answers, cells)))


def test_an_answer_counts_under_all_its_ancestors() -> None:
    assert list(counted_answers(FIRST, answers("nyy")).values()) == [0, 0, 0]
    assert list(counted_answers(FIRST, answers("yny")).values()) == [1, 0, 0]
    # A parent further down the table: the official pass has not zeroed it yet.
    backwards = questions((2,), (3,), (0,), row=1)
    assert list(counted_answers(backwards, answers("yyn")).values()) == [0, 0, 0]
    picture = official_picture(backwards, (answers("yyn"),))
    assert picture is not None
    assert picture.cells == (1 / 3,)


def test_only_yes_and_no_are_answers() -> None:
    assert [read_answer(a) for a in ("yes", " Yes. ", "NO", "no", "yes, it is", "", None)] == [
        1,
        1,
        0,
        0,
        None,
        None,
        None,
    ]
    record = decide(0, 0, "ymy")
    assert record.unscored == "an answer is neither yes nor no"
    assert record.why == ("cell 0, question 2: answer 'maybe'",)
    assert decide(0, 0).unscored is not None
    assert BENCH.decide(BENCH.items[0], 0, ({1: "yes", 2: "no"},)).why == ("cell 0, question 3: answer None",)


def test_totals_are_means_over_items_and_counted_answers() -> None:
    records = [decide(0, 0, "yyy"), decide(0, 1, "yny"), decide(1, 0, "yny"), decide(1, 1, "yyy")]
    totals = BENCH.totals(records, JUDGE, resamples=50)
    assert totals.complete
    score = totals.score()
    # Items: (1 + 1/3) / 2 and (1/3 + 1) / 2.
    assert score == pytest.approx(100 * 2 / 3)
    assert records[1].why == ("no: 2 q2?", "no: 3 q3?")
    categories = {g: e.value for g, e in totals.strict[LEVEL_2].items() if e is not None}
    assert categories["attribute - color"] == pytest.approx(50)
    assert categories["entity - whole"] == pytest.approx(100)
    assert list(totals.strict[LEVEL_1]) == ["entity", "attribute", "relation"]


def test_a_part_of_the_set_is_not_called_dpg_bench() -> None:
    records = [decide(0, 0, "yyy")]
    assert BENCH.totals(records, "vlm", 50).benchmark == "DPG with judge vlm, 2 of 1,065 items, incomplete"
    whole = DPGBench(tuple(Item(str(i), "", "", FIRST, (f"{i}.png",)) for i in range(1065)))
    everything = [whole.decide(item, 0, (answers("yyy"),)) for item in whole.items]
    assert whole.totals(everything, JUDGE, 10).benchmark == "DPG-Bench"
    assert whole.totals(everything, "vlm", 10).benchmark == "DPG with judge vlm, 1,065 of 1,065 items"


def test_official_quirks() -> None:
    # Row 0 is never read, and question 2 depends on it: the first item is left out of the official mean.
    assert [q.id for q in official_questions(FIRST)] == [2, 3]
    totals = BENCH.totals([decide(0, 0, "nnn"), decide(1, 0, "yny")], JUDGE, resamples=50)
    assert totals.official[SCORE]["overall"] == pytest.approx(100 / 3)
    assert "the official mean leaves out 1 pictures on which its script fails" in totals.notes
    assert totals.score() == pytest.approx(100 * (0 + 1 / 3) / 2)
    # Categories: raw answers (yes to question 3 although its parent is no) of the last cell only.
    grid = BENCH.totals([decide(1, 0, "nnn", "yny")], JUDGE, resamples=50)
    assert grid.official[LEVEL_2] == {"attribute - color": 0, "entity - whole": 100, "relation - spatial": 100}
    relation = grid.strict[LEVEL_2]["relation - spatial"]
    assert relation is not None
    assert relation.value == 0


def test_official_reader_starts_anew_where_rows_are_not_adjacent() -> None:
    apart = (*questions((0,), (1,), row=5), Question(3, "q3?", (0,), CATEGORIES[0], 9))
    assert [q.id for q in official_questions(apart)] == [3]
    twice = (*questions((0,), (1,), row=5), Question(1, "again?", (0,), CATEGORIES[0], 7))
    assert [q.text for q in official_questions(twice)] == ["again?", "q2?"]


def test_official_mean_of_nothing() -> None:
    totals = BENCH.totals([decide(0, 0, "yyy")], JUDGE, resamples=50)
    assert totals.official[SCORE]["overall"] is None
    assert official_picture((), ({},)) is None
    # A parent that is not there is only looked up while no parent before it is 0.
    orphan = questions((0,), (1, 8), row=1)
    assert official_picture(orphan, (answers("yy"),)) is None
    short = official_picture(orphan, (answers("ny"),))
    assert short is not None
    assert short.cells == (0.0,)
