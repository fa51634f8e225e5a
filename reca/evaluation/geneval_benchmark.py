"""GenEval as a benchmark: 553 prompts in six tasks (arXiv 2310.11513), judged by the rules in `geneval`.

Published: github djghosh13/geneval, MIT. RecA's repository has the same specifications with long rewritten prompts,
which lift scores and are therefore an edition of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from reca.evaluation.benchmark import Benchmark, Figures, Values, by_group
from reca.evaluation.geneval import TASKS, Detection, Options, Prompt, Verdict, color_of, judge, summarize
from reca.evaluation.records import Item, Record
from reca.evaluation.statistics import OVERALL

CORRECT, PICTURES, PROMPTS = "correct", "pictures", "prompts"
"""Measures: mean of the task means (the headline), share of right pictures, share of prompts with a right picture."""

NAN_SEEN = "a box, score or colour is not a number"
"""`Record.unscored` of a picture in which the judge saw that."""

TABLE_HEADING = "SO   TO   CT   CL   POS  ATTR ALL"
"""Heading of the table in RecA's copy of the summary script; the columns below it follow the order of meeting."""


class Sighting(msgspec.Struct, frozen=True):
    """One object that the detector saw.

    Attributes:
        name: class word.
        box: x1, y1, x2, y2 in pixels.
        score: confidence, 0 to 1.
        logits: of the ten colours, in the order of `geneval.COLORS`; None where no colour was asked for.
    """

    name: str
    box: tuple[float, float, float, float]
    score: float
    logits: tuple[float, ...] | None = None


Seen = tuple[Sighting, ...]
GenEvalRecord = Record[Prompt, Seen]


def detections(seen: Sequence[Sighting], official: bool = False) -> list[Detection]:
    """Sightings with colours read off; `official` lets a NaN logit win."""
    return [
        Detection(s.name, s.box, s.score, None if s.logits is None else color_of(s.logits, official=official))
        for s in seen
    ]


@dataclass(frozen=True)
class GenEval(Benchmark[Prompt, Seen]):
    """The six tasks.

    Attributes:
        options: thresholds of the rules.
        long_prompts: whether the prompts are the rewritten ones.
    """

    options: Options = field(default_factory=Options)
    long_prompts: bool = False

    name: ClassVar[str] = "GenEval"
    headline: ClassVar[str] = CORRECT
    least: ClassVar[Mapping[str, float]] = {CORRECT: 0.0}
    judges: ClassVar[tuple[str, ...]] = ("mmdet Mask2Former Swin-S and CLIP ViT-L/14",)
    published: ClassVar[int] = 553

    @property
    def edition(self) -> str:
        """Short or long prompts."""
        return "long (rewritten) prompts" if self.long_prompts else "original prompts"

    def groups(self, measure: str) -> tuple[str, ...]:
        """The six tasks; all pictures together for the other measures."""
        return TASKS if measure == CORRECT else (OVERALL,)

    def decide(self, item: Item[Prompt], sample: int, seen: Seen) -> GenEvalRecord:
        """GenEval's verdict; a NaN in what was seen leaves the picture unscored."""
        verdict = judge(item.asked, detections(seen), self.options)
        place = item.key, sample, item.group, item.asked, seen
        if verdict.refused is not None:
            return Record(*place, why=(verdict.refused,), unscored=NAN_SEEN)
        return Record(*place, scores={CORRECT: float(verdict.correct)}, why=verdict.reasons)

    def unjudged(self, record: GenEvalRecord) -> bool:
        """A NaN was seen; the published scripts make a verdict of it, which says nothing of the picture."""
        return record.unscored == NAN_SEEN

    def values(self, records: Sequence[GenEvalRecord]) -> dict[str, Values]:
        """0 or 1 for each picture, by task; all together; and the best of each prompt."""
        tasks = by_group(records, CORRECT, TASKS)
        everything = {item: values for items in tasks.values() for item, values in items.items()}
        best = {item: [max(values)] for item, values in everything.items()}
        return {
            CORRECT: tasks,
            PICTURES: {OVERALL: everything} if everything else {},
            PROMPTS: {OVERALL: best} if best else {},
        }

    def official(self, records: Sequence[GenEvalRecord]) -> Figures:
        """`summary_scores.py` on the verdicts of `evaluate_images.py`, where a NaN colour wins."""
        if not records:
            return {measure: {OVERALL: None} for measure in (CORRECT, PICTURES, PROMPTS)}
        summary = summarize([(r.asked, official_verdict(r.asked, r.seen, self.options)) for r in records])
        return {
            CORRECT: {OVERALL: summary.overall, **{task: summary.tasks.get(task) for task in TASKS}},
            PICTURES: {OVERALL: summary.images},
            PROMPTS: {OVERALL: summary.prompts},
        }


def official_verdict(prompt: Prompt, seen: Sequence[Sighting], options: Options) -> Verdict:
    """What `evaluate_images.py` decides about the same sightings.

    Args:
        prompt: what was asked.
        seen: everything that the detector saw.
        options: thresholds.
    """
    return judge(prompt, detections(seen, official=True), options, official=True)


def reca_table(tasks: Mapping[str, float], overall: float) -> str:
    """The table that RecA's copy of `summary_scores.py` writes.

    Its heading is fixed while its columns follow the order of meeting, so it can be mislabelled: for comparison only.

    Args:
        tasks: mean by task, in the order in which the script met them.
        overall: mean of the task means.
    """
    return f"{TABLE_HEADING}\n{' '.join(f'{value:.2f}' for value in [*tasks.values(), overall])}\n"
