import json
import math
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from reca.evaluation.geneval import (
    COLORS,
    Detection,
    GenEvalError,
    Options,
    Prompt,
    Verdict,
    color_of,
    judge,
    judge_strictly,
    read_prompts,
    relations,
    summarize,
)

SHARED = Path(os.environ.get("RECA_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden/scorers/geneval"
PROMPT_FILE = SHARED / "benchmarks/geneval/evaluation_metadata.jsonl"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="golden cases of the official scoring code are not present"
)


def prompt_of(metadata: dict[str, Any]) -> Prompt:
    return read_prompts([json.dumps(metadata)])[1]


def detections_of(item: dict[str, Any]) -> list[Detection]:
    return [
        Detection(name, tuple(np.float32(box[:4]).tolist()), float(np.float32(box[4])), color_of(logits))
        for name, boxes in item["detections"].items()
        for box, logits in zip(boxes, item["color_logits"].get(name, [[0.0] * 10] * len(boxes)), strict=True)
    ]


def lines_as_sets(lines: list[str]) -> list[frozenset[str]]:
    return [frozenset(line.replace(" target", "").split("found ")[-1].split(" and ")) for line in lines]


@needs_golden
@pytest.mark.parametrize("name", ["edges", "seed0", "seed1", "nms"])
def test_verdicts_of_the_official_code(name: str) -> None:
    case = json.loads((GOLDEN / f"case-image-{name}.json").read_text())
    assert tuple(case["color_order"]) == COLORS
    options = Options(max_overlap=case["options"].get("NMS_THRESHOLD", 1.0))
    for item, expected in zip(case["inputs"], case["expected"], strict=True):
        verdict = judge(prompt_of(item["metadata"]), detections_of(item), options)
        assert verdict.correct == expected["correct"]
        reasons = expected["reason"].split("\n") if expected["reason"] else []
        assert lines_as_sets(list(verdict.reasons)) == lines_as_sets(reasons)
        assert [r.split(", found")[0] for r in verdict.reasons] == [r.split(", found")[0] for r in reasons]
        counts = expected.get("kept_count") or {k: len(v) for k, v in expected["kept"].items()}
        assert {k: len(v) for k, v in verdict.kept.items()} == counts
        for label, boxes in expected.get("kept", {}).items():
            np.testing.assert_allclose([[*d.box, d.score] for d in verdict.kept[label]], boxes, atol=1e-3)


@needs_golden
@pytest.mark.parametrize("name", ["small", "full-seed0"])
def test_totals_of_the_official_code(name: str) -> None:
    case = json.loads((GOLDEN / f"case-summary-{name}.json").read_text())
    if "records" in case:
        pairs = [(prompt_of(r["metadata"]), r["correct"]) for r in case["records"]]
    else:
        prompts = list(read_prompts(PROMPT_FILE.read_text().splitlines()).values())
        lines = zip(case["prompt_file_lines"], case["correct"], strict=True)
        pairs = [(prompts[line], correct) for line, four in lines for correct in four]
    summary = summarize([(prompt, Verdict(correct, (), {})) for prompt, correct in pairs])
    expected = case["expected"]
    assert list(summary.tasks) == expected["tasks_in_order"]
    assert summary.overall == pytest.approx(expected["overall"], abs=5e-6)
    assert 100 * summary.images == pytest.approx(expected["percent_correct_images"], abs=0.005)
    assert 100 * summary.prompts == pytest.approx(expected["percent_correct_prompts"], abs=0.005)
    for task, values in expected["tasks"].items():
        assert 100 * summary.tasks[task] == pytest.approx(values["score_percent"], abs=0.005)
        assert summary.counts[task] == values["total"]


SINGLE = prompt_of({"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"})
RED = prompt_of({"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a red dog"})


def dog(x: float = 0.0, y: float = 0.0, score: float = 0.9, color: str | None = "red") -> Detection:
    return Detection("dog", (x, y, x + 28, y + 28), score, color)


def test_threshold_is_strict_in_float32() -> None:
    assert not judge(SINGLE, [dog(score=float(np.float32(0.3)))]).correct
    assert judge(SINGLE, [dog(score=0.3001)]).correct


def test_nan_is_refused_and_counted() -> None:
    refused = judge(SINGLE, [dog(), dog(score=math.nan)])
    unread = judge(RED, [dog(color=color_of([math.nan] * 10))])
    assert not refused.correct
    assert "NaN" in (refused.refused or "")
    assert "colour of dog" in (unread.refused or "")
    summary = summarize([(SINGLE, refused), (RED, unread), (RED, judge(RED, [dog()]))])
    assert summary.refused == 2
    assert summary.tasks == {"single_object": 0.0, "colors": 0.5}


def test_colors_take_the_first_on_ties() -> None:
    assert color_of([0.0, 5.0, 5.0] + [0.0] * 7) == "orange"


def test_relations_of_lattice_offsets() -> None:
    assert relations(dog(0, 0), dog(32, 16)) == ("left of",)
    assert relations(dog(32, 32), dog(0, 0)) == ("right of", "below")
    assert relations(dog(4, 0), dog(0, 0)) == ()


def test_only_the_most_confident_box_is_asked_for_its_color() -> None:
    assert not judge(RED, [dog(color="blue"), dog(32, score=0.8)]).correct
    assert judge(RED, [dog(color="blue", score=0.8), dog(32)]).correct


def test_of_equal_scores_the_last_detection_comes_first() -> None:
    # The official script reverses an ascending sort.
    assert judge(RED, [dog(color="blue"), dog(32)]).correct
    assert not judge(RED, [dog(), dog(32, color="blue")]).correct
    kept = judge(SINGLE, [dog(0), dog(32), dog(64, score=0.95)]).kept["dog"]
    assert [d.box[0] for d in kept] == [64, 32, 0]


def test_limits_of_the_options() -> None:
    assert judge(SINGLE, [dog()], Options(max_objects=0)).kept == {}
    lost = Detection("dog", (0, math.nan, 28, 28), 0.8)
    pair = [dog(), lost]
    assert judge(SINGLE, pair, Options(max_overlap=1.0), official=True).kept["dog"] == tuple(pair)
    # An overlap that is not a number is below no limit, above 1 neither.
    assert judge(SINGLE, pair, Options(max_overlap=1.5), official=True).kept["dog"] == (dog(),)


def test_strict_reading_refuses_extra_objects() -> None:
    verdict = judge(SINGLE, [dog(), dog(32)])
    assert verdict.correct
    strict = judge_strictly(SINGLE, verdict)
    assert not strict.correct
    assert strict.reasons == ("expected 1 objects in all, found 2",)
    assert judge_strictly(SINGLE, judge(SINGLE, [dog()])).correct


def test_bad_prompt_lines_are_named() -> None:
    with pytest.raises(GenEvalError, match="line 2 is not a GenEval record"):
        read_prompts([msgspec.json.encode(SINGLE), b"{"])
    with pytest.raises(GenEvalError, match="unknown tag 'sizes'"):
        read_prompts([msgspec.json.encode(SINGLE).replace(b"single_object", b"sizes")])
    later = {
        "tag": "position",
        "prompt": "x",
        "include": [{"class": "dog", "count": 1, "position": ["above", 1]}, {"class": "car", "count": 1}],
    }
    with pytest.raises(GenEvalError, match="name an earlier entry"):
        read_prompts([json.dumps(later)])
    with pytest.raises(GenEvalError, match="no verdicts"):
        summarize([])
