from test_benchmark import BENCH, JUDGE, RECORDS

from reca.evaluation.scoreboard import scoreboard


def test_both_totals_stand_side_by_side_in_the_official_order() -> None:
    totals = BENCH.totals(RECORDS, JUDGE, resamples=50, settings={"seed": 7, "guidance": 2.5})
    lines = scoreboard(totals).splitlines()
    assert lines[0] == f"GenEval, original prompts, 3 of 553 items, incomplete: - (strict, judge {JUDGE})"
    assert lines[1] == "6 pictures of 3 items, 1 unscored, 0 missing, seed 7, guidance 2.5"
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    assert names[:7] == ["overall", "single_object", "two_object", "counting", "colors", "position", "color_attr"]
    colors = next(line for line in lines if line.startswith("  colors")).split()
    assert (colors[1], colors[-2], colors[-1]) == ("0.6667", "2", "0.5")
    assert next(line for line in lines if line.startswith("  counting")).split()[1:] == ["-", "-", "-", "-"]
    assert any(line.startswith("note: 1 unscored: a box, score or colour is not a number, such as") for line in lines)
    assert scoreboard(totals, official=True).startswith(lines[0].split(":")[0] + ": 0.5 (official script")
