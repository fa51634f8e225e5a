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

from pipelines.benchmark_artifacts import BenchmarkReport, Compared, Judged, Totalled
from pipelines.benchmark_choices import BENCHMARKS, Side, chosen
from pipelines.benchmark_stages import compare, report, total
from pipelines.dsl import SettingsError, main, pipeline
from pipelines.stages import checkpoint_at, load_checkpoint
from reca.config import out_of_range
from reca.evaluation.run_config import EVALUATION_RANGES, BenchmarkRecipe, JudgingExecution
from reca.models import unknown_family


@pipeline
def evaluate(recipe: BenchmarkRecipe) -> BenchmarkReport:
    """Draw (or take) the pictures of every benchmark, judge them, form totals and differences, and report.

    Files of prompts, questions and judge prompts are read here already: what is wrong with one is said before anything
    starts, and not when all pictures are drawn.
    """
    benchmarks = chosen(recipe)
    sides = sides_of(recipe, several=len(benchmarks) > 1)
    judged: list[Judged] = []
    totals: list[Totalled] = []
    compared: list[Compared] = []
    for bench in benchmarks:
        name = bench.reading.benchmark
        rows = [bench.judge(side) for side in sides]
        for side, row in zip(sides, rows, strict=True):
            stage = total.named(f"total {name}, {side.label}")
            totals.append(stage(row, bench.source, bench.prompts, bench.reading, recipe.bootstrap))
        if len(rows) == 2:
            stage = compare.named(f"compare {name}")
            compared.append(stage(rows[0], rows[1], bench.source, bench.prompts, bench.reading, recipe.bootstrap))
        judged += rows
        # After the stages are declared: these name what is missing with its setting.
        bench.check()
    labels = tuple(side.label for side in sides)
    family = "" if recipe.images else recipe.model.family
    return report(labels, tuple(judged), tuple(totals), tuple(compared), recipe.name, family)


def sides_of(recipe: BenchmarkRecipe, several: bool) -> list[Side]:
    """One side, or two that are compared."""
    places = [recipe.images or recipe.model.checkpoint, *([recipe.compare] if recipe.compare else [])]
    settings = ("model.checkpoint", "compare")
    sides: list[Side] = []
    for label, place, setting in zip(labels_of(places), places, settings, strict=False):
        model = None
        if not recipe.images:
            model = load_checkpoint.named(f"load {label}")(checkpoint_at(place, setting), recipe.model.family)
        sides.append(Side(label, model, recipe.images and place, several))
    return sides


def check(recipe: BenchmarkRecipe, execution: JudgingExecution) -> None:
    """Refuse what could never work, before anything starts.

    Raises:
        SettingsError: naming every field that is out of range, or the families there are.
    """
    problems = [
        *out_of_range(recipe, ranges=EVALUATION_RANGES),
        *out_of_range(execution, "--context ", EVALUATION_RANGES),
    ]
    if not recipe.images and (problem := unknown_family(recipe.model.family)):
        problems.append(problem)
    if problems:
        raise SettingsError("; ".join(problems))


def labels_of(places: Sequence[str]) -> list[str]:
    """The last part of each path; numbered where they are alike."""
    names = [Path(place.rstrip("/")).name or place for place in places]
    return names if len(set(names)) == len(names) else [f"{name} ({n})" for n, name in enumerate(names, start=1)]


def published() -> BenchmarkRecipe:
    """Published sizes and judges; `--model`, `--checkpoint` and `--benchmarks` say what is scored, and on what.

    Command: `python pipelines/evaluate.py run --model showo --checkpoint DIR --benchmarks geneval
    --set geneval.prompts=PATH`. Hardware: any; GPUs for released models and judges (`--context gpus_per_worker=1`).
    Cost: not measured.
    """
    return BenchmarkRecipe(name="published")


EXAMPLES = """\
with what is in this project (from its folder; the questions are made up, and no published set):
  python -m reca.evaluation.sample sample
  python pipelines/evaluate.py run --model showo --checkpoint checkpoints/tiny_showo --benchmarks gqa \\
      --set gqa.questions=sample/questions.json --set gqa.images=sample/pictures --context workers=1
  python pipelines/evaluate.py plan --model janus --checkpoint checkpoints/tiny_janus --benchmarks gqa \\
      --set gqa.questions=sample/questions.json --set gqa.images=sample/pictures
  python pipelines/evaluate.py show

with published files, whose places stand in capitals (docs/benchmarks.md says where to get them):
  python pipelines/evaluate.py run --model bagel --checkpoint DIR --benchmarks geneval --set geneval.prompts=FILE
  python pipelines/evaluate.py run --images DIR --benchmarks wise --set wise.prompts=DIR \\
      --set wise.judge_prompt=FILE --set judge.model=NAME --context base_url=URL
  python pipelines/evaluate.py run --model showo --compare BEFORE AFTER --benchmarks geneval,mme \\
      --set geneval.prompts=FILE --set mme.folder=DIR"""


RECIPES: Mapping[str, Callable[[], BenchmarkRecipe]] = {"published": published}


def short_flags() -> argparse.ArgumentParser:
    """The flags that stand for `--set` words."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("what is scored")
    group.add_argument("--model", metavar="FAMILY", help="family of the checkpoint")
    group.add_argument("--checkpoint", metavar="PATH", help="checkpoint that is scored")
    group.add_argument("--benchmarks", metavar="a,b", help=f"which ones: {', '.join(BENCHMARKS)}")
    group.add_argument("--images", metavar="DIR", help="score pictures made elsewhere instead of a model's")
    group.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two checkpoints, or two folders of pictures")
    return parser


def set_words(argv: Sequence[str]) -> list[str]:
    """Turn the short flags into `--set` words; all other words stay.

    `--model FAMILY`, `--checkpoint PATH`, `--benchmarks a,b`, `--images DIR`, and `--compare A B`: two checkpoints of
    the family, or, without `--model`, two folders of pictures.
    """
    parser = short_flags()
    flags, words = parser.parse_known_args(list(argv))
    rivals = [("--compare", flags.compare, name, getattr(flags, name)) for name in ("images", "checkpoint")]
    for first, one, second, other in (*rivals, ("--images", flags.images, "model", flags.model)):
        if one is not None and other is not None:
            parser.exit(2, f"error: {first} and --{second} both say what is scored; give one of them\n")
    given = {
        "model.family": flags.model,
        "model.checkpoint": flags.checkpoint,
        "benchmarks": flags.benchmarks,
        "images": flags.images,
    }
    if flags.compare is not None:
        given["model.checkpoint" if flags.model else "images"], given["compare"] = flags.compare
    return [*words, *(f"--set={name}={value}" for name, value in given.items() if value is not None)]


if __name__ == "__main__":
    own = set_words(sys.argv[1:])
    sys.exit(main(evaluate, RECIPES, "published", own, JudgingExecution(), check, EXAMPLES, [short_flags()]))
