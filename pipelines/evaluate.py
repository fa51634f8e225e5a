"""Score any supported checkpoint, or pictures made elsewhere, on published benchmarks.

Run as a script, as `python -m pipelines.evaluate`, or as a submitted Ray job. Prompt files are not part of this
project: give their places, such as `--set geneval.prompts=PATH`.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    # As in pipelines/reca.py: the repository root must come first, not this script's folder.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.artifacts import Checkpoint
from pipelines.benchmark_stages import (
    BenchmarkReport,
    Compared,
    Drawn,
    Judged,
    Totalled,
    compare,
    draw,
    judge_geneval,
    report,
    total,
    weights_at,
)
from pipelines.dsl import External, SettingsError, main, pipeline
from pipelines.stages import load_checkpoint
from reca.config import ExecutionConfig
from reca.evaluation.run_config import BenchmarkRecipe, DrawingConfig, Reading

GENEVAL_MEND = "evaluation_metadata.jsonl of github djghosh13/geneval"


@dataclass(frozen=True)
class Side:
    """What is scored: a model, or pictures made elsewhere.

    Attributes:
        label: its name in the tables.
        model: the loaded checkpoint; None for pictures made elsewhere.
        images: folder of pictures made elsewhere, with one folder for each benchmark when `several` are asked for.
        several: whether more than one benchmark is asked for.
    """

    label: str
    model: Checkpoint | None
    images: str
    several: bool

    def pictures(self, source: External, reading: Reading, drawing: DrawingConfig) -> Drawn | External:
        """Draw a benchmark's pictures, or name the folder where they lie."""
        if self.model is None:
            return External(f"{self.images.rstrip('/')}/{reading.benchmark}" if self.several else self.images)
        return draw.named(f"draw {reading.benchmark}, {self.label}")(self.model, source, reading, drawing)


@dataclass(frozen=True)
class Chosen:
    """A benchmark of the recipe.

    Attributes:
        source: its prompts or questions.
        reading: how they are read.
        judge: calls the stages that give its records.
    """

    source: External
    reading: Reading
    judge: Callable[[Side], Judged]


def geneval(recipe: BenchmarkRecipe) -> Chosen:
    """GenEval with detector and CLIP."""
    config = recipe.geneval
    source = needed(config.prompts, "geneval.prompts", GENEVAL_MEND)
    reading = Reading("geneval", config.samples, config.long_prompts)
    names = External(config.object_names) if config.object_names else None

    def judge(side: Side) -> Judged:
        return judge_geneval.named(f"judge geneval, {side.label}")(
            side.pictures(source, reading, config.drawing),
            source,
            weights_at(config.detector),
            weights_at(config.clip),
            names,
            reading,
            config.detector_scale,
            config.judge_batch,
        )

    return Chosen(source, reading, judge)


BENCHMARKS: Mapping[str, Callable[[BenchmarkRecipe], Chosen]] = {"geneval": geneval}
"""Benchmarks by the name that `--benchmarks` takes."""


@pipeline
def evaluate(recipe: BenchmarkRecipe) -> BenchmarkReport:
    """Draw (or take) the pictures of every benchmark, judge them, form totals and differences, and report."""
    chosen = [benchmark_named(name)(recipe) for name in names_in(recipe.benchmarks)]
    sides = sides_of(recipe)
    judged: list[Judged] = []
    totals: list[Totalled] = []
    compared: list[Compared] = []
    for bench in chosen:
        name = bench.reading.benchmark
        rows = [bench.judge(side) for side in sides]
        for side, row in zip(sides, rows, strict=True):
            stage = total.named(f"total {name}, {side.label}")
            totals.append(stage(row, bench.source, bench.reading, recipe.bootstrap))
        if len(rows) == 2:
            stage = compare.named(f"compare {name}")
            compared.append(stage(rows[0], rows[1], bench.source, bench.reading, recipe.bootstrap))
        judged += rows
    labels = tuple(side.label for side in sides)
    return report(labels, tuple(judged), tuple(totals), tuple(compared), recipe.name)


def sides_of(recipe: BenchmarkRecipe) -> list[Side]:
    """One side, or two that are compared."""
    several = len(names_in(recipe.benchmarks)) > 1
    places = [recipe.images or recipe.model.checkpoint, *([recipe.compare] if recipe.compare else [])]
    sides: list[Side] = []
    for label, place in zip(labels_of(places), places, strict=True):
        model = None
        if not recipe.images:
            model = load_checkpoint.named(f"load {label}")(External(place), recipe.model.family)
        sides.append(Side(label, model, recipe.images and place, several))
    return sides


def labels_of(places: Sequence[str]) -> list[str]:
    """The last part of each path; numbered where they are alike."""
    names = [Path(place.rstrip("/")).name or place for place in places]
    return names if len(set(names)) == len(names) else [f"{name} ({n})" for n, name in enumerate(names, start=1)]


def names_in(benchmarks: str) -> list[str]:
    """Names joined by commas, each once."""
    return list(dict.fromkeys(name.strip() for name in benchmarks.split(",")))


def benchmark_named(name: str) -> Callable[[BenchmarkRecipe], Chosen]:
    """A benchmark by name.

    Raises:
        SettingsError: unknown name.
    """
    if name not in BENCHMARKS:
        raise SettingsError(f"there is no benchmark {name!r}; benchmarks are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def needed(place: str, setting: str, source: str) -> External:
    """A file that the user has to give.

    Raises:
        SettingsError: when it is not given; the message says where to get it.
    """
    if not place:
        raise SettingsError(f"{setting} is not set; get {source} and give its path or URL: --set {setting}=PATH")
    return External(place)


def published() -> BenchmarkRecipe:
    """GenEval of the shipped tiny Show-o, with the published sizes and judges.

    Command: `python pipelines/evaluate.py run --model FAMILY --checkpoint PATH --benchmarks geneval --set
    geneval.prompts=PATH`. Hardware: any; a GPU for released models and judges. Cost: not measured.
    """
    return BenchmarkRecipe(name="published")


RECIPES: Mapping[str, Callable[[], BenchmarkRecipe]] = {"published": published}


def set_words(argv: Sequence[str]) -> list[str]:
    """Turn the short flags (`--model`, `--checkpoint`, `--benchmarks`, `--images`, `--compare A B`) into `--set` words;
    all other words stay.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model")
    parser.add_argument("--checkpoint")
    parser.add_argument("--benchmarks")
    parser.add_argument("--images")
    parser.add_argument("--compare", nargs=2)
    flags, words = parser.parse_known_args(list(argv))
    given = {
        "model.family": flags.model,
        "model.checkpoint": flags.checkpoint,
        "benchmarks": flags.benchmarks,
        "images": flags.images,
    }
    if flags.compare is not None:
        # Two checkpoints of one family, or, without a family, two folders of pictures.
        given["model.checkpoint" if flags.model else "images"], given["compare"] = flags.compare
    return [*words, *(f"--set={name}={value}" for name, value in given.items() if value is not None)]


if __name__ == "__main__":
    sys.exit(main(evaluate, RECIPES, "published", set_words(sys.argv[1:]), ExecutionConfig()))
