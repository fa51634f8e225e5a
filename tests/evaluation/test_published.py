"""The authors' figures: whose they are, and when ours may be compared with them."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from reca.evaluation.benchmark import Benchmark, Totals
from reca.evaluation.dpgbench import DPGBench
from reca.evaluation.gedit import GEdit
from reca.evaluation.geneval_benchmark import GenEval
from reca.evaluation.imgedit import ImgEdit
from reca.evaluation.published import JUDGES, REPORTED, SETTINGS, TITLES, difference_in_kind, reported
from reca.evaluation.records import Item
from reca.evaluation.wise import Wise

RULES: Mapping[str, type[Benchmark[Any, Any]]] = {
    "geneval": GenEval,
    "dpgbench": DPGBench,
    "wise": Wise,
    "imgedit": ImgEdit,
    "gedit": GEdit,
}


@pytest.mark.parametrize("name", RULES)
def test_titles_and_judges_are_those_of_a_whole_set(name: str) -> None:
    kind = RULES[name]
    whole = kind((Item("a", "b", "c", None, ("d",)),) * kind.published)
    assert set(JUDGES[name]) <= set(kind.judges)
    assert whole.title(JUDGES[name][0], complete=True) == TITLES[name]


def totals(judge: str, title: str) -> Totals:
    return Totals(title, judge, {}, {}, "x", None, 1, 1, 0, 0, (), {})


def test_another_judge_or_set_is_not_comparable() -> None:
    right = totals("gpt-4o-2024-05-13", "WISE, first edition")
    assert difference_in_kind("wise", [right]) == ""
    assert difference_in_kind("wise", [right, totals("qwen", "WISE, first edition")]) == (
        "judged by qwen, theirs by gpt-4o-2024-05-13"
    )
    part = totals("gpt-4o-2024-05-13", "WISE, first edition, 3 of 1,000 items")
    assert difference_in_kind("wise", [part]).startswith("ours is WISE, first edition, 3 of 1,000 items")


def test_rows_belong_to_known_families_and_benchmarks() -> None:
    from reca.models import FAMILIES

    assert {row.benchmark for row in REPORTED} == set(TITLES) == set(JUDGES)
    assert {row.family for row in REPORTED} | {family for family, _ in SETTINGS} <= set(FAMILIES)
    assert reported("janus", "geneval") == ()
    assert [row.model for row in reported("bagel", "gedit")] == ["BAGEL"]
    assert all(0 <= row.before <= row.after for row in REPORTED)
    assert msgspec.to_builtins(reported("showo", "wise")[0])["after"] == 0.40
