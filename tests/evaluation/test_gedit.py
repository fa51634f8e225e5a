import math

import pytest

from reca.evaluation.gedit import TYPES, Edit, GEdit, Replies, check_language, official_scores, read_pair
from reca.evaluation.records import BenchmarkError, Item

BENCH = GEdit(
    tuple(
        Item(f"{kind}{n}", kind, "x", Edit("x", kind, "en", intersection=n == 0), (f"{kind}{n}.png",))
        for kind in TYPES
        for n in range(2)
    ),
    language="en",
)


def reply(first: object, second: object) -> str:
    return f'{{"score": [{first}, {second}], "reasoning": "r"}}'


@pytest.mark.parametrize(
    "text",
    [
        reply(7, 3),
        f"```json\n{reply(7, 3)}\n```",
        f"||V^=^V||\n{reply(7, 3)}\n||V^=^V||",
        f"\n {reply(7.0, 3)} ",
    ],
)
def test_two_numbers_are_read(text: str) -> None:
    assert read_pair(text) == (7.0, 3.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot tell.",
        "[7, 3]",
        "7",
        '{"score": 7}',
        '{"score": [7]}',
        reply("7, 5", 3),
        reply(11, 3),
        reply(-1, 3),
        reply("NaN", 3),
        reply("true", 3),
        reply('"7"', 3),
        '{score: [7, 3], reasoning: "r"}',
        '{"score": [7, 3], "reasoning": "cut',
        f"Here you go: {reply(7, 3)}",
        "rate_limit_exceeded",
    ],
)
def test_anything_else_is_unscored(text: str) -> None:
    assert isinstance(read_pair(text), str)
    record = BENCH.decide(BENCH.items[0], 0, Replies(reply(8, 8), text))
    assert (record.scores, record.unscored) == ({}, "a reply does not hold two numbers from 0 to 10")
    assert record.why[0].startswith("PQ: ")


def test_scores_of_an_edit() -> None:
    record = BENCH.decide(BENCH.items[0], 0, Replies(reply(8, 4), reply(9, 10)))
    assert record.scores == {"O": 6.0, "SC": 4.0, "PQ": 9.0}


def test_totals_of_all_edits_and_of_the_intersection() -> None:
    records = [
        BENCH.decide(
            item, 0, Replies(reply(4, 9), reply(4, 9)) if item.asked.intersection else Replies(reply(9, 9), "?")
        )
        for item in BENCH.items
    ]
    totals = BENCH.totals(records, "gpt-4.1", resamples=50)
    assert totals.benchmark == "GEdit-Bench, EN, 22 of 606 items, incomplete"
    assert list(totals.strict) == ["O", "SC", "PQ", "O_intersection", "SC_intersection", "PQ_intersection"]
    assert totals.score() == 4.0
    assert totals.floor == 2.0
    assert (totals.unscored, totals.score(official=True)) == (11, 4.0)


def test_an_empty_group_gives_no_overall_here_and_nan_officially() -> None:
    records = [
        BENCH.decide(item, 0, Replies(reply(4, 4), reply(4, 4))) for item in BENCH.items if item.group != "text_change"
    ]
    totals = BENCH.totals(records, "gpt-4.1", resamples=50)
    assert totals.score() is None
    assert totals.strict["O"]["text_change"] is None
    assert "group text_change has no scored picture, so there is no overall" in totals.notes
    assert math.isnan(totals.score(official=True) or 0.0)


def test_official_reading_lets_more_pass_and_makes_nothing_up() -> None:
    assert official_scores("7", "[5, 6]") == (7, 5, math.sqrt(35))
    assert official_scores(f"Sure: {reply(20, 30)}", reply(5, 5)) == (20, 5, 10.0)
    assert official_scores("no idea", reply(5, 5)) is None
    assert official_scores('{"score": "good"}', reply(5, 5)) is None
    assert official_scores("rate_limit_exceeded", reply(5, 5)) is None


def test_a_reply_nested_without_end_is_unreadable() -> None:
    endless = f"||V^=^V||{'[' * 100_000}||V^=^V||"
    assert BENCH.decide(BENCH.items[0], 0, Replies(endless, reply(9, 10))).unscored is not None
    assert official_scores(endless, reply(5, 5)) is None


def test_language_flags() -> None:
    assert check_language("cn") == "cn"
    with pytest.raises(BenchmarkError, match="the published records say 'cn'"):
        check_language("zh")
