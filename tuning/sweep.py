"""Sweep over loss weights and learning rate: `python tuning/sweep.py run --recipe smoke --trials 4`.

Every trial is the main pipeline up to training plus a score on validation prompts, run from one store: pictures and
encoded features are made once. The folder `sweeps/NAME` of the store keeps every trial, so a killed sweep continues.
"""

import argparse
import os
import sys
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

# As a script this file's folder comes first on sys.path, and workers inherit it; the root has to be there instead.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "tuning"))]

import msgspec  # noqa: E402

from pipelines.dsl import DslError, RunOptions, SettingsError, Store, run_graph, settings  # noqa: E402
from pipelines.dsl.canonical import key_of  # noqa: E402
from pipelines.dsl.cli import Parser, default_store, open_store  # noqa: E402
from pipelines.dsl.progress import read_line  # noqa: E402
from pipelines.recipes import RECIPES, check  # noqa: E402
from reca.config import ExecutionConfig, RecaRecipe  # noqa: E402
from tuning.records import RecordError, SweepFolder, TrialRecord, best_of, ranked  # noqa: E402
from tuning.search import SearchSettings, SweepError, rungs_of, search  # noqa: E402
from tuning.space import Range, SpaceError, apply, space_of, start_point  # noqa: E402
from tuning.trial import PipelineObjective, shared  # noqa: E402

DEFAULT_RECIPE = "tiny_showo"
SHOWN = 5


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was asked for.

    Attributes:
        recipe: where the search starts, and what every trial is but for the searched fields.
        space: searched fields.
        settings: lengths and counts.
        execution: context of the trials.
        store: where artifacts and the sweep's folder lie.
    """

    recipe: RecaRecipe
    space: tuple[Range, ...]
    settings: SearchSettings
    execution: ExecutionConfig
    store: Store

    @property
    def folder(self) -> SweepFolder:
        """The folder of every start of this sweep: more trials, or another context, continue the same one."""
        identity = {
            "recipe": self.recipe,
            "space": self.space,
            "rungs": self.settings.rungs,
            "seed": self.settings.seed,
        }
        return SweepFolder(self.store.files.join(f"sweeps/{self.recipe.name}-{key_of(identity, 'sweep')[:12]}"))


def run(sweep: Sweep) -> TrialRecord:
    """Make what all trials share, run the missing trials, write the tables and the best recipe.

    Raises:
        DslError: data or features could not be made.
        SweepError: trials broke, or none got to full length.
    """
    folder = sweep.folder
    plain = msgspec.to_builtins(sweep.recipe)
    folder.write_json(
        "sweep.json",
        {"recipe": plain, "space": [asdict(r) for r in sweep.space], "settings": asdict(sweep.settings)},
    )
    print(f"sweep {folder.uri}", flush=True)
    options = RunOptions(execution=sweep.execution, recipe=plain)
    run_graph(shared(sweep.recipe), sweep.store, options)
    topic = f"{folder.uri} {uuid.uuid4().hex}"
    objective = PipelineObjective(sweep.recipe, sweep.store.uri, sweep.execution, os.getcwd(), topic)
    start = start_point(sweep.recipe, sweep.space)
    say = partial(print, flush=True)
    try:
        records = search(objective, sweep.space, start, sweep.settings, folder, say, partial(read_line, topic))
    finally:
        table = folder.write_tables(folder.load())
    best = best_of(records)
    if best is None:
        raise SweepError(f"no trial got to full length, see {table}; lower the learning rate of the recipe")
    recipe = apply(sweep.recipe, best.params)
    uri = folder.write_json("best.json", msgspec.to_builtins(recipe))
    _print_result(sweep, records, best, table, uri)
    return best


def _print_result(sweep: Sweep, records: Sequence[TrialRecord], best: TrialRecord, table: str, uri: str) -> None:
    for record in ranked(records)[:SHOWN]:
        values = ", ".join(f"{name} {value:.3g}" for name, value in sorted(record.params.items()))
        print(f"{record.state:<8} {record.score:.3f}  trial {record.number + 1}: {values}")
    own = next((record for record in records if record.number == 0 and record.state == "done"), None)
    gain = "" if own is None else f", {best.score - own.score:+.3f} against the recipe as it stands"
    print(f"best: trial {best.number + 1}, validation score {best.score:.3f}{gain}")
    print(f"trials: {table}")
    print(f"best recipe: {uri}\nnext: python pipelines/reca.py run --recipe {uri} --store {sweep.store.uri}")


def parse(argv: Sequence[str]) -> Sweep:
    """Read the command line.

    Raises:
        SettingsError, SpaceError: a value is wrong; the message names it and the mend.
    """
    arguments = _parser().parse_args(argv)
    for name in ("trials", "concurrent"):
        if getattr(arguments, name) < 1:
            raise SettingsError(f"--{name} {getattr(arguments, name)}: give a number of at least 1")
    base = settings.load_recipe(arguments.recipe, RECIPES, DEFAULT_RECIPE)
    recipe, origins = settings.apply(base, arguments.set, "--set", f"recipe {arguments.recipe}")
    execution, context = settings.apply(ExecutionConfig(), arguments.context, "--context", "the default")
    for origin in (*origins, *context):
        print(f"  {origin.path} = {origin.value} ({origin.source})")
    check(recipe, execution)
    rungs = rungs_of(recipe.training.updates)
    search_settings = SearchSettings(arguments.trials, rungs, concurrent=arguments.concurrent, seed=arguments.seed)
    return Sweep(recipe, space_of(recipe), search_settings, execution, open_store(arguments.store))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="sweep.py",
        allow_abbrev=False,
        description="Sweep over loss weights and learning rate: every trial is the main job up to training, scored on "
        "validation prompts.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"""examples:
  python tuning/sweep.py run --recipe smoke --trials 4
  python tuning/sweep.py run --trials 12 --set training.updates=200 --store s3://bucket/store
  python tuning/sweep.py run --trials 16     the same sweep again: only what is missing runs

recipes: {", ".join(RECIPES)}, or a .json or .toml file""",
    )
    parser.add_argument("verb", nargs="?", default="run", choices=("run",), help="what to do (default: run)")
    parser.add_argument("--recipe", default=DEFAULT_RECIPE, metavar="NAME|FILE", help="where the search starts")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=VALUE", help="change a field; repeatable")
    parser.add_argument("--context", action="append", default=[], metavar="a=VALUE", help="where and how trials run")
    parser.add_argument("--store", default=default_store(), metavar="URI", help="where artifacts and the sweep lie")
    parser.add_argument("--trials", type=int, default=8, help="trials in total, earlier starts included (default: 8)")
    parser.add_argument("--concurrent", type=int, default=1, help="trials side by side (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampler (default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit status 0 done, 1 trials broke, 2 the call is wrong, 130 interrupted."""
    try:
        run(parse(sys.argv[1:] if argv is None else argv))
    except (SettingsError, SpaceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (DslError, SweepError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: finished trials are kept; run the same command again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
