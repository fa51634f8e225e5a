"""Records, totals and the switch between strict and official, shown on GenEval."""

import math

import pytest

from reca.evaluation.geneval import Prompt, Requirement
from reca.evaluation.geneval_benchmark import CORRECT, PICTURES, PROMPTS, GenEval, Seen, Sighting, reca_table
from reca.evaluation.records import BenchmarkError, Item, Record
from reca.evaluation.scoreboard import scoreboard

DOG = Prompt("single_object", "a dog", (Requirement("dog", 1),))
RED = Prompt("colors", "a red dog", (Requirement("dog", 1, color="red"),))
BENCH = GenEval(
    tuple(
        Item(f"{number:05d}", prompt.tag, prompt.prompt, prompt, ("0", "1"))
        for number, prompt in enumerate([DOG, RED, Prompt("colors", "a blue dog", (Requirement("dog", 1, "blue"),))])
    )
)
JUDGE = BENCH.judges[0]


def dog(color: int, score: float = 0.9) -> Sighting:
    return Sighting("dog", (0.0, 0.0, 20.0, 20.0), score, tuple(float(i == color) for i in range(10)))


def decide(item: int, sample: int, *seen: Sighting) -> Record[Prompt, Seen]:
    return BENCH.decide(BENCH.items[item], sample, seen)


RECORDS = [
    decide(0, 0, dog(0)),
    decide(0, 1),
    decide(1, 0, dog(0)),
    decide(1, 1, dog(4)),
    decide(2, 0, dog(4)),
    decide(2, 1, Sighting("dog", (0.0, 0.0, 9.0, 9.0), 0.9, (math.nan,) * 10)),
]


def test_a_record_says_what_was_asked_seen_decided_and_why() -> None:
    record = RECORDS[3]
    assert (record.item, record.sample, record.group, record.asked) == ("00001", 1, "colors", RED)
    assert record.seen == (dog(4),)
    assert record.scores == {CORRECT: 0.0}
    assert record.why == ("expected red dog>=1, found 0 red; and 1 blue",)


def test_nan_is_unscored_here_and_red_officially() -> None:
    totals = BENCH.totals(RECORDS, JUDGE, resamples=50)
    assert RECORDS[5].unscored == "a box, score or colour is not a number"
    assert totals.unscored == 1
    example = "such as item '00002', sample 1: colour of dog could not be read"
    assert f"1 unscored: a box, score or colour is not a number, {example}" in totals.notes
    assert not totals.complete
    assert totals.benchmark == "GenEval, original prompts, 3 of 553 items, incomplete"
    colors = totals.strict[CORRECT]["colors"]
    assert colors is not None
    assert colors.value == pytest.approx(2 / 3)
    assert totals.official[CORRECT]["colors"] == 0.5
    # Officially the NaN reads as red, so a red dog would have passed.
    lucky = BENCH.totals([*RECORDS[:3], decide(1, 1, *RECORDS[5].seen)], JUDGE, resamples=50)
    assert lucky.official[CORRECT]["colors"] == 1.0


def test_an_overall_over_some_of_the_tasks_is_not_given() -> None:
    totals = BENCH.totals(RECORDS, JUDGE, resamples=50)
    assert totals.strict[CORRECT]["overall"] is None
    assert totals.score() is None
    assert "group counting has no scored picture, so there is no overall" in totals.notes
    # The official script takes the mean of the tasks that it meets.
    assert totals.score(official=True) == pytest.approx((0.5 + 0.5) / 2)


def test_shares_of_pictures_and_of_prompts() -> None:
    totals = BENCH.totals(RECORDS, JUDGE, resamples=50)
    pictures, prompts = totals.strict[PICTURES]["overall"], totals.strict[PROMPTS]["overall"]
    assert pictures is not None
    assert prompts is not None
    assert (pictures.value, pictures.prompts) == (pytest.approx(3 / 5), 3)
    assert prompts.value == 1.0
    assert totals.official[PICTURES]["overall"] == 0.5


def test_missing_pictures_and_another_judge_are_said() -> None:
    totals = BENCH.totals(RECORDS[:3], "a toy detector", resamples=50)
    assert (totals.missing, totals.pictures, totals.items) == (3, 3, 2)
    assert "3 expected pictures have no record, such as 1" in totals.notes
    assert totals.notes[0].startswith("judged by a toy detector; published numbers use mmdet")
    assert not BENCH.totals([], JUDGE, resamples=50).complete


def test_records_that_do_not_belong_are_refused() -> None:
    with pytest.raises(BenchmarkError, match="item '00000', sample 0: stands twice"):
        BENCH.totals([RECORDS[0], RECORDS[0]], JUDGE)
    with pytest.raises(BenchmarkError, match="item '00009', sample 0: this set of 3 items has no such picture"):
        BENCH.totals([Record("00009", 0, "colors", RED, ())], JUDGE)
    with pytest.raises(BenchmarkError, match="sample 2"):
        BENCH.totals([Record("00001", 2, "colors", RED, ())], JUDGE)
    with pytest.raises(BenchmarkError, match="item '00001', sample 0: something else was asked of it"):
        BENCH.totals([Record("00001", 0, "colors", DOG, ())], JUDGE)


def test_differences_pair_what_both_sides_scored() -> None:
    after = [decide(0, 0, dog(0)), decide(0, 1, dog(0)), decide(1, 0, dog(0)), decide(1, 1, dog(0)), *RECORDS[4:]]
    found = BENCH.differences(RECORDS, after, resamples=200)
    assert (found.pictures, found.left_out) == (5, 1)
    table = found.tables[CORRECT]
    single, colors = table["single_object"], table["colors"]
    assert single is not None
    assert colors is not None
    assert single.value == 0.5
    # Of the blue dog only sample 0 is scored; (1 + 1) / 2 for the red one against 1 / 2, over three pictures.
    assert colors.value == pytest.approx(1 / 3)
    assert table["overall"] is table["counting"] is None
    same = BENCH.differences(RECORDS, RECORDS).tables[PICTURES]["overall"]
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)
    with pytest.raises(BenchmarkError, match="no picture is scored on both sides"):
        BENCH.differences(RECORDS[:1], RECORDS[1:])


def test_the_floor_counts_unscored_and_missing_pictures_as_wrong() -> None:
    tasks = [Prompt(tag, f"{tag} {n}", (Requirement("dog", 1),)) for tag in BENCH.groups(CORRECT) for n in range(2)]
    bench = GenEval(tuple(Item(str(n), p.tag, p.prompt, p, ("0",)) for n, p in enumerate(tasks)))
    right = [bench.decide(item, 0, (dog(0, 0.95),)) for item in bench.items]
    assert bench.totals(right, JUDGE, 50).floor == 1.0
    nan = bench.decide(bench.items[0], 0, (dog(0, math.nan),))
    totals = bench.totals([nan, *right[1:-1]], JUDGE, 50)
    assert (totals.score(), totals.unscored, totals.missing) == (1.0, 1, 1)
    # Two of the six tasks lose one picture of two each.
    assert totals.floor == pytest.approx(5 / 6)
    assert "0.8333 if every unscored or missing picture had the least score" in scoreboard(totals)


def test_recas_table_follows_the_order_of_meeting() -> None:
    assert reca_table({"counting": 0.25, "colors": 0.5}, 0.375).splitlines()[1] == "0.25 0.50 0.38"
