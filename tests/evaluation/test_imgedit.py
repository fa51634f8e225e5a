import pytest

from reca.evaluation.imgedit import (
    ITEMS,
    SCORE,
    TYPES,
    Edit,
    ImgEdit,
    ImgEditUGE,
    criteria_of,
    official_mean,
    read_scores,
)
from reca.evaluation.records import Item

NAMES = ("Prompt Compliance", "Visual Naturalness", "Physical & Detail Integrity")
BENCH = ImgEdit(
    tuple(
        Item(str(n), kind, "do it", Edit("do it", kind, NAMES), (f"{n}.png",)) for n, kind in enumerate((*TYPES, "add"))
    )
)


def reply(*scores: object) -> str:
    return "Brief reasoning: fine.\n" + "\n".join(f"{n}: {s}" for n, s in zip(NAMES, scores, strict=True))


def test_criteria_come_from_the_judge_prompt() -> None:
    text = (
        "Rate.\nBrief reasoning: A short explanation.\nStyle Fidelity: A number from 1 to 5.\nB: A number from 1 to 5."
    )
    assert criteria_of(text) == ("Style Fidelity", "B")


@pytest.mark.parametrize(
    "text",
    [
        reply(4, 3, 2),
        reply(4, 3, 2).replace("Prompt Compliance", "**Prompt Compliance**"),
        reply(4, 3, 2).replace("Visual Naturalness:", "**Visual Naturalness:**"),
        reply("**4**", 3, 2),
        "\n".join(f"- {line}" for line in reply(4, 3, 2).splitlines()),
        "\n".join(reversed(reply(4, 3, 2).upper().splitlines())),
        reply(4, 3, 2) + "\nTotal: 9",
    ],
)
def test_three_named_whole_numbers_are_read(text: str) -> None:
    assert read_scores(text, NAMES) == (4, 3, 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot help with that.",
        reply("4/5", 3, 2),
        reply(3.5, 3, 2),
        reply(0, 3, 2),
        reply(6, 3, 2),
        reply("4.", 3, 2),
        reply(-1, 3, 2),
        reply("\u0664", 3, 2),
        reply(4, 3, 2) + "\n" + reply(4, 3, 2),
        "\n".join(reply(4, 3, 2).splitlines()[:-1]),
        "4\n3\n2",
        "Score: 4",
    ],
)
def test_anything_else_is_unscored(text: str) -> None:
    record = BENCH.decide(BENCH.items[0], 0, text)
    assert record.scores == {}
    assert record.unscored == "the reply does not hold the asked scores"
    assert "asked for one whole number from 1 to 5" in record.why[0]


def test_uge_asks_for_one_score_of_any_name() -> None:
    assert read_scores("Brief reasoning: 3 lemons, good.\nScore: 4", ("",)) == (4,)
    assert isinstance(read_scores("Score: 4\nFinal: 3", ("",)), str)
    assert isinstance(read_scores("Score: 10", ("",)), str)
    assert isinstance(read_scores("Score: 4/5", ("",)), str)
    bench = ImgEditUGE((Item("1", "uge", "x", Edit("x", "uge", ("",)), ("1.png",)),))
    totals = bench.totals([bench.decide(bench.items[0], 0, "Score: 4")], "gpt-4o", 50)
    assert totals.benchmark == "ImgEdit-Bench, UGE, 1 of 47 items"
    assert totals.score() == 4.0
    assert totals.official[ITEMS]["overall"] == 4.0


def test_totals_by_type_over_types_and_over_edits() -> None:
    records = [BENCH.decide(item, 0, reply(5, 4, 3) if item.group == "add" else reply(2, 2, 2)) for item in BENCH.items]
    totals = BENCH.totals(records, "gpt-4o", resamples=50)
    assert list(totals.strict[SCORE]) == ["overall", *TYPES]
    assert totals.score() == pytest.approx((4 + 8 * 2) / 9)
    edits = totals.strict[ITEMS]["overall"]
    assert edits is not None
    assert edits.value == pytest.approx((2 * 4 + 8 * 2) / 10)
    assert totals.official[ITEMS]["overall"] == 2.4
    assert totals.score(official=True) == pytest.approx(20 / 9)


def test_wrong_scale_counts_officially_only() -> None:
    wrong = [BENCH.decide(item, 0, reply(10, 10, 10)) for item in BENCH.items]
    totals = BENCH.totals(wrong, "gpt-4o", resamples=50)
    assert totals.unscored == len(BENCH.items)
    assert totals.score() is None
    assert totals.floor == 1.0
    assert totals.score(official=True) == 10.0
    assert official_mean("Score: 10") == 10.0
    assert official_mean("a: b: 3") is None
    # The published scripts end on both; here they are no scores.
    assert official_mean(f"a: {'9' * 5000}\nb: ²\nc: 4") == 4.0


def test_a_later_score_above_the_first_is_remarked() -> None:
    record = BENCH.decide(BENCH.items[0], 0, reply(2, 5, 2))
    assert record.scores[SCORE] == 3.0
    assert "exceeds the first" in record.why[0]
    assert BENCH.decide(BENCH.items[0], 0, reply(5, 5, 2)).why == ()
