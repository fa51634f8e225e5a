"""What our rules answer for each kind of golden case, in the shape in which the case states the official answer.

A case file holds made-up inputs of a published scoring script and what that script answered. Its `kind` and fields say
which benchmark it is of. Here only the official mode of the rules is at work.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from reca.evaluation import dpgbench, gedit, imgedit, wise
from reca.evaluation.geneval import COLORS, TASKS, Options, Prompt, Verdict, read_prompts, summarize
from reca.evaluation.geneval_benchmark import Sighting, official_verdict, reca_table
from reca.evaluation.statistics import OVERALL

Case = Mapping[str, Any]

TASK_SIZES = (80, 99, 80, 94, 100, 100)
"""Lines of the published GenEval prompt file, which holds the six tasks one after another."""

CELLS = 4
"""Most answers for one DPG-Bench file: cells of the grid, or RecA's repeats."""

OPTION_NAMES = {
    "THRESHOLD": "threshold",
    "COUNTING_THRESHOLD": "counting_threshold",
    "MAX_OBJECTS": "max_objects",
    "NMS_THRESHOLD": "max_overlap",
    "POSITION_THRESHOLD": "position_threshold",
}
"""Options of `evaluate_images.py` and of our rules."""

RECA_NAMES: dict[str, str] = {name: "Cultural" if name == "CULTURE" else name.capitalize() for name in wise.CATEGORIES}
"""Columns of RecA's WISE table."""


ROUNDING = 1e-9
"""What floats themselves are off by: without it 55.625 and its print 55.62 differ by more than 0.005."""

PERCENT = 0.005 + ROUNDING
"""Of figures that the scripts print with two decimals."""


@dataclass(frozen=True)
class Answer:
    """Two things that must agree.

    Attributes:
        name: what they are.
        found: our answer.
        expected: the official one.
        absolute: largest difference of two numbers.
        relative: largest difference of two numbers as a share of the expected one.
    """

    name: str
    found: object
    expected: object
    absolute: float = 0.0
    relative: float = 0.0


class CaseError(ValueError):
    """A case that no rule here answers."""


def answers(case: Case) -> list[Answer]:
    """Our answers and the official ones.

    Raises:
        CaseError: for a case of an unknown kind, with an unknown option, or with colours in another order.
    """
    return _handler(case)(case)


def _handler(case: Case) -> Callable[[Case], list[Answer]]:
    kinds: dict[object, Callable[[Case], list[Answer]]] = {
        "image": geneval_images,
        "summary": geneval_summary,
        "statistics": gedit_statistics,
        "item": gedit_items,
        "scores": wise_scores,
        "verified": wise_verified,
    }
    if case.get("kind") == "aggregate":
        return dpgbench_aggregate if "question_rows" in case else imgedit_aggregate
    if case.get("kind") == "parse":
        return gedit_parse if all("parsed" in expected for expected in case["expected"]) else wise_parse
    if case.get("kind") not in kinds:
        raise CaseError(f"no rule for a case of kind {case.get('kind')!r}; known: {', '.join(map(str, kinds))}")
    return kinds[case["kind"]]


def geneval_images(case: Case) -> list[Answer]:
    """Verdict, reasons and kept boxes of each picture; boxes to 1e-3, as the case files are rounded.

    Raises:
        CaseError: for an unknown option, or colours in another order.
    """
    chosen = cast("Mapping[str, Any]", case.get("options", {}))
    if unknown := set(chosen) - set(OPTION_NAMES):
        raise CaseError(f"unknown option {', '.join(sorted(unknown))}; known: {', '.join(OPTION_NAMES)}")
    if tuple(case["color_order"]) != COLORS:
        raise CaseError(f"colours in another order than {', '.join(COLORS)}")
    options = Options(**{OPTION_NAMES[name]: value for name, value in chosen.items()})
    found: list[Answer] = []
    for number, (item, expected) in enumerate(zip(case["inputs"], case["expected"], strict=True)):
        verdict = official_verdict(_prompt(item["metadata"]), _sightings(item), options)
        where = f"image {number}"
        found.append(Answer(f"{where}: correct", verdict.correct, expected["correct"]))
        reasons = expected["reason"].split("\n") if expected["reason"] else []
        found.append(Answer(f"{where}: reason", [_reason(r) for r in verdict.reasons], [_reason(r) for r in reasons]))
        if "kept" in expected:
            kept = {name: [[*d.box, d.score] for d in items] for name, items in verdict.kept.items()}
            found.append(Answer(f"{where}: kept", kept, expected["kept"], absolute=1e-3))
        else:
            counts = {name: len(items) for name, items in verdict.kept.items()}
            found.append(Answer(f"{where}: kept_count", counts, expected["kept_count"]))
    return found


def geneval_summary(case: Case) -> list[Answer]:
    """Counts and shares; 0.005 on percents, 5e-6 on the overall score, as the script prints them."""
    pairs = _outcomes(case)
    summary = summarize([(prompt, Verdict(correct, (), {})) for prompt, correct in pairs])
    met = {tag: summary.tasks[tag] for tag in dict.fromkeys(prompt.tag for prompt, _ in pairs)}
    right = {tag: sum(correct for prompt, correct in pairs if prompt.tag == tag) for tag in met}
    counts = {tag: {"correct": right[tag], "total": summary.counts[tag]} for tag in met}
    percents = {tag: 100 * value for tag, value in met.items()}
    expected = dict(case["expected"])
    tasks = cast("dict[str, dict[str, Any]]", expected["tasks"])
    return [
        Answer("total_images", len(pairs), expected["total_images"]),
        Answer("total_prompts", len({prompt for prompt, _ in pairs}), expected["total_prompts"]),
        Answer("percent_correct_images", 100 * summary.images, expected["percent_correct_images"], PERCENT),
        Answer("percent_correct_prompts", 100 * summary.prompts, expected["percent_correct_prompts"], PERCENT),
        Answer("tasks_in_order", list(met), expected["tasks_in_order"]),
        Answer("score_percent", percents, {tag: task["score_percent"] for tag, task in tasks.items()}, PERCENT),
        Answer("counts", counts, {t: {k: v for k, v in task.items() if k in counts[t]} for t, task in tasks.items()}),
        Answer("overall", summary.overall, expected["overall"], 5e-6 + ROUNDING),
        Answer("reca_table", reca_table(met, summary.overall), expected["reca_table"]),
    ]


def dpgbench_aggregate(case: Case) -> list[Answer]:
    """Scores of files and cells, files left out, categories and total; 1e-9 relative."""
    tables: dict[str, list[dpgbench.Question]] = {}
    for number, row in enumerate(case["question_rows"]):
        tables.setdefault(str(row["item_id"]), []).append(dpgbench.question_of(row, number))
    mark = "_" if case["variant"] == "reca" else "."
    # RecA's copy asks four times about the whole file, however many cells are named.
    cells = CELLS if case["variant"] == "reca" else min(case["cells_per_image"], CELLS)
    read: dict[str, tuple[dpgbench.Asked, dpgbench.OfficialPicture]] = {}
    for image in case["images"]:
        questions = dpgbench.official_questions(tuple(tables.get(image["file"].split(mark)[0], ())))
        rounds = image["answers"] * (CELLS if case["variant"] == "reca" else 1)
        # On an answer that is no text the script fails as on a missing one.
        seen = tuple({int(i): a for i, a in cell.items() if isinstance(a, str)} for cell in rounds[:cells])
        if (picture := dpgbench.official_picture(questions, seen)) is not None:
            read[image["file"]] = questions, picture
    totals = dpgbench.official_totals(read.values())
    score = totals[dpgbench.SCORE][OVERALL]
    found = {
        "images": {file: {"cell_scores": list(p.cells), "score": p.score} for file, (_, p) in read.items()},
        "skipped_files": sorted(image["file"] for image in case["images"] if image["file"] not in read),
        "level1": totals[dpgbench.LEVEL_1],
        "level2": totals[dpgbench.LEVEL_2],
        "dpg_score": math.nan if score is None else score,
    }
    expected = {**case["expected"], "skipped_files": sorted(case["expected"]["skipped_files"])}
    return [Answer(name, found.get(name), value, absolute=1e-12, relative=1e-9) for name, value in expected.items()]


def imgedit_aggregate(case: Case) -> list[Answer]:
    """Means of replies, types and all; exact."""
    types = case.get("edit_type", {})  # the UGE suite has none
    means = {key: imgedit.official_mean(reply) for key, reply in case["replies"].items()}
    typed = [(kind, mean) for key, mean in means.items() if (kind := types.get(key)) is not None]
    found = {
        "per_item": means,
        "by_type": imgedit.official_by_type(typed),
        # Both take every readable edit, whether its type is known or not.
        "overall_reca": imgedit.official_overall(list(means.values())),
        "overall_uge_style": imgedit.official_overall(list(means.values())),
    }
    return [Answer(name, found.get(name), value) for name, value in case["expected"].items()]


def gedit_statistics(case: Case) -> list[Answer]:
    """Means by language, measure and type; 1e-9."""
    place = {name: case["row_fields"].index(name) for name in ("task_type", "language", "SC", "PQ", "intersection")}
    found: list[Answer] = []
    for language, expected in case["expected"].items():
        rows = [row for row in case["rows"] if row[place["language"]] == language]
        figures = gedit.official_statistics(
            [tuple(row[place[name]] for name in ("task_type", "SC", "PQ", "intersection")) for row in rows]
        )
        for measure, groups in expected.items():
            ours = {("average" if name == OVERALL else name): v for name, v in figures.get(measure, {}).items()}
            found.append(Answer(f"{language} {measure}", ours, groups, absolute=1e-9))
    return found


def gedit_parse(case: Case) -> list[Answer]:
    """Parsed objects, score lists and their minimum; exact."""
    found: list[Answer] = []
    for number, (reply, expected) in enumerate(zip(case["replies"], case["expected"], strict=True)):
        parsed = gedit.official_parse(reply)
        scores = parsed.get("score") if isinstance(parsed, dict) else None
        ours: dict[str, object] = {"parsed": parsed, "score_list": scores, "min": _minimum(parsed)}
        found.append(Answer(f"reply {number}", _stated(ours, expected), expected))
    return found


def gedit_items(case: Case) -> list[Answer]:
    """SC, PQ and O of pairs of replies; 1e-9."""
    found = [gedit.official_scores(*pair) for pair in case["replies"]]
    return [
        Answer(f"pair {number}", None if ours is None else list(ours), expected, absolute=1e-9)
        for number, (ours, expected) in enumerate(zip(found, case["expected"], strict=True))
    ]


def wise_scores(case: Case) -> list[Answer]:
    """Totals of the first edition by both scripts, which print two decimals: 0.005."""
    scores = {int(i): [_number(value) for value in three] for i, three in case["scores"].items()}
    reca = wise.reca_totals(scores)
    ours = "error" if reca is None else {RECA_NAMES.get(name, "Overall"): value for name, value in reca.items()}
    expected = case["expected"]
    theirs = "error" if "error" in (expected["reca"] or "error") else expected["reca"]
    whole = wise.official_totals(scores)
    counted = [i for i, three in scores.items() if None not in three]
    return [
        Answer("reca", ours, theirs, absolute=PERCENT),
        _official_wise(whole, counted, wise.FIRST_IDS, expected["official"]),
    ]


def wise_verified(case: Case) -> list[Answer]:
    """Totals of the verified edition: 0.005."""
    scores = {int(i): score for i, score in case["scores"].items()}
    totals = wise.verified_totals(scores)
    counted = [i for i, score in scores.items() if score in (0, 1)]
    return [_official_wise(totals, counted, wise.VERIFIED_IDS, case["expected"]["official_verified"])]


def wise_parse(case: Case) -> list[Answer]:
    """Scores that both readers find in a reply; exact."""
    found: list[Answer] = []
    for number, (reply, expected) in enumerate(zip(case["replies"], case["expected"], strict=True)):
        read = {"reca": wise.reca_scores(reply), "off": wise.official_scores(reply)}
        ours = {reader: {name.replace(" ", "_"): v for name, v in scores.items()} for reader, scores in read.items()}
        found.append(Answer(f"reply {number}", _stated(ours, expected), expected))
    return found


def _prompt(metadata: Mapping[str, Any]) -> Prompt:
    # Through JSON, so that a case is read exactly as a prompt file is; but the script lets `include` be absent.
    return read_prompts([json.dumps({"include": [], **metadata})])[1]


def _sightings(item: Mapping[str, Any]) -> list[Sighting]:
    """Detections of one picture, numbers in float32 as the detector gives them."""
    found: list[Sighting] = []
    for name, boxes in item["detections"].items():
        logits = item.get("color_logits", {}).get(name, [None] * len(boxes))
        for box, colors in zip(boxes, logits, strict=True):
            x1, y1, x2, y2, score = np.asarray(box, dtype=np.float32).tolist()
            found.append(Sighting(name, (x1, y1, x2, y2), score, None if colors is None else tuple(colors)))
    return found


def _reason(line: str) -> tuple[str, list[str]]:
    """A line with the relations that it found as a sorted list: the script joins a set, in any order."""
    head, mark, tail = line.partition(", found ")
    if not mark or not tail.endswith(" target"):
        return line, []
    return head, sorted(tail.removesuffix(" target").split(" and "))


def _outcomes(case: Case) -> list[tuple[Prompt, bool]]:
    """Prompt and correctness of each picture; the full set names prompts by their line in the published file."""
    if "records" in case:
        return [(_prompt(record["metadata"]), record["correct"]) for record in case["records"]]
    tags = [tag for tag, size in zip(TASKS, TASK_SIZES, strict=True) for _ in range(size)]
    lines = zip(case["prompt_file_lines"], case["correct"], strict=True)
    return [(Prompt(tags[line], f"line {line}", ()), right) for line, rights in lines for right in rights]


def _stated(ours: Mapping[str, object], expected: Case) -> dict[str, object]:
    """Our answers to what the case states."""
    return {name: ours[name] for name in expected if name in ours}


def _number(value: object) -> float | None:
    """A score, or None for what is none: the official script passes over it, RecA's fails on it."""
    return value if isinstance(value, int | float) else None


def _minimum(parsed: Any) -> object:
    try:
        return min(parsed["score"])
    except (TypeError, KeyError, ValueError) as error:
        return f"error:{type(error).__name__}"


def _official_wise(
    totals: Mapping[str, float | None] | None, counted: Sequence[int], last_ids: Sequence[int], expected: Case
) -> Answer:
    read = totals or {}
    groups = [wise.category(identity, last_ids) for identity in counted]
    means = {name: [mean, groups.count(name)] for name in wise.CATEGORIES if (mean := read.get(name)) is not None}
    ours = {"by_category": means, "overall": read.get(OVERALL), "aborted_missing_ids": totals is None}
    return Answer("official", _stated(ours, expected), expected, absolute=PERCENT)
