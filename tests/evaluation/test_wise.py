from collections.abc import Mapping

import pytest

from reca.evaluation.records import BenchmarkError, Item
from reca.evaluation.wise import (
    CATEGORIES,
    CRITERIA,
    PLAIN,
    VERIFIED_IDS,
    WISCORE,
    Prompt,
    Wise,
    WiseVerified,
    category,
    official_totals,
    read_scores,
    reca_totals,
    verified_score,
    verified_totals,
    wiscore,
)

IDS = range(1, 1001)


def items(last_ids: tuple[int, ...] | None = None) -> tuple[Item[Prompt], ...]:
    groups = {i: (category(i, last_ids) if last_ids else category(i)) or "" for i in IDS}
    return tuple(Item(str(i), groups[i], "p", Prompt(i, "p", "e"), (f"{i}.png",)) for i in IDS)


BENCH, VERIFIED = Wise(items()), WiseVerified(items(VERIFIED_IDS))


def reply(consistency: object, realism: object, aesthetic: object) -> str:
    return f"Consistency: {consistency}\nRealism: {realism}\nAesthetic Quality: {aesthetic}"


def test_categories_by_id() -> None:
    assert [category(i) for i in (1, 400, 401, 567, 568, 700, 701, 1000)] == [
        *["CULTURE"] * 2,
        *["TIME"] * 2,
        *["SPACE"] * 2,
        "BIOLOGY",
        "CHEMISTRY",
    ]
    assert category(520, VERIFIED_IDS) == "TIME"
    assert category(521, VERIFIED_IDS) == "SPACE"
    assert category(0) is category(1001) is None


def test_wiscore() -> None:
    assert wiscore(2, 2, 2) == pytest.approx(1.0)
    assert wiscore(1, 2, 0) == pytest.approx(0.55)
    record = BENCH.decide(BENCH.items[0], 0, reply(1, 2, 0))
    assert record.scores[WISCORE] == pytest.approx(0.55)
    assert record.scores["realism"] == 2


@pytest.mark.parametrize("text", [reply(2, 1, 0), f"**{reply(2, 1, 0)}**", reply(2, 1, 0).lower() + "\nDone."])
def test_three_labelled_scores_are_read(text: str) -> None:
    assert read_scores(text, CRITERIA, most=2) == (2, 1, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sorry",
        "2\n1\n0",
        reply(3, 1, 0),
        reply(2, 1.5, 0),
        reply("2/2", 1, 0),
        reply(2, 1, 0)[:-1],
        reply(2, 1, 0) * 2,
    ],
)
def test_anything_else_is_unscored(text: str) -> None:
    record = BENCH.decide(BENCH.items[0], 0, text)
    assert (record.scores, record.unscored) == ({}, "the reply does not hold the asked scores")


def test_official_and_plain_overall_differ() -> None:
    records = [
        BENCH.decide(item, 0, reply(2, 2, 2) if item.group == "CULTURE" else reply(0, 0, 0)) for item in BENCH.items
    ]
    totals = BENCH.totals(records, "gpt-4o-2024-05-13", resamples=50)
    assert totals.benchmark == "WISE, first edition"
    assert totals.complete
    plain = totals.strict[PLAIN]["overall"]
    assert plain is not None
    assert (totals.score(), plain.value) == (pytest.approx(0.4), pytest.approx(1 / 6))
    assert totals.score(official=True) == pytest.approx(0.4)
    assert totals.official[PLAIN]["overall"] == pytest.approx(1 / 6)
    assert list(totals.strict[WISCORE]) == ["overall", *CATEGORIES]


def test_one_unread_reply_stops_the_official_scripts_or_poisons_a_science() -> None:
    def totals_with(identity: int, text: str) -> tuple[float | None, Mapping[str, Mapping[str, float | None]]]:
        seen = {item.key: text if item.key == str(identity) else reply(1, 1, 1) for item in BENCH.items}
        found = BENCH.totals([BENCH.decide(i, 0, seen[i.key]) for i in BENCH.items], "gpt-4o-2024-05-13", 20)
        assert found.unscored == 1
        return found.score(), found.official

    score, official = totals_with(3, "sorry")
    assert score == pytest.approx(0.5)
    assert official[WISCORE]["overall"] is None
    assert official[PLAIN]["overall"] is None
    score, official = totals_with(703, "Consistency: 1\nRealism: 1")
    assert score == pytest.approx(0.5)
    assert official[WISCORE]["overall"] is None
    # RecA averages 9.9 in: biology is (99 * 0.5 + 0.45 + 0.05 * 9.9) / 100.
    assert official[PLAIN]["BIOLOGY"] == pytest.approx((99 * 0.5 + 0.45 + 0.05 * 9.9) / 100)


def test_scripts_on_incomplete_scores() -> None:
    whole = dict.fromkeys(IDS, (1.0, 1.0, 1.0))
    assert official_totals(whole) is not None
    assert official_totals({i: s for i, s in whole.items() if i != 500}) is None
    assert reca_totals({i: s for i, s in whole.items() if i != 1000}) is None
    odd = {**whole, 700: (None, 1.0, 1.0)}
    totals = official_totals(odd)
    assert totals is not None
    assert totals["SPACE"] == pytest.approx(0.5)
    assert reca_totals(odd) is None


def test_verified_edition() -> None:
    records = [
        VERIFIED.decide(i, 0, "Score: 1" if i.group in ("CULTURE", "TIME") else "Score: 0") for i in VERIFIED.items
    ]
    totals = VERIFIED.totals(records, "Qwen3.5-35B-A3B", resamples=50)
    assert totals.benchmark == "WISE_Verified, 2026"
    assert totals.score() == pytest.approx(0.52)
    assert totals.score(official=True) == pytest.approx(0.52)
    assert VERIFIED.decide(VERIFIED.items[0], 0, "Score: 2").unscored is not None
    assert [verified_score(t) for t in ("**Score:** 1", "score 0", "1", "1\n0", "Score: 10", "good")] == [
        None,
        0.0,
        1.0,
        None,
        None,
        None,
    ]
    thought = "<think>Perhaps\nScore: 1</think>\nScore: 0"
    assert verified_score(thought) == 0.0
    assert VERIFIED.decide(VERIFIED.items[0], 0, thought).scores == {"score": 0.0}
    partial = verified_totals({1: 1, 2: 0, 3: 0.5, 401: 1})
    assert (partial["CULTURE"], partial["TIME"], partial["overall"]) == (0.5, 1.0, None)


def test_records_of_the_other_edition_are_refused_where_their_prompts_are_the_same() -> None:
    first = [BENCH.decide(BENCH.items[0], 0, reply(2, 1, 0))]
    verified = [VERIFIED.decide(VERIFIED.items[0], 0, "Score: 1")]
    message = "sample 0: has no {}: the rules of another benchmark or edition decided it; score again"
    with pytest.raises(BenchmarkError, match=f"WISE_Verified: record of item '1', {message.format('score')}"):
        VERIFIED.totals(first, "a judge", 10)
    with pytest.raises(BenchmarkError, match=f"WISE: record of item '1', {message.format('WiScore')}"):
        BENCH.differences(first, verified, 10)
