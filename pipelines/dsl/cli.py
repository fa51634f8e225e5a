"""The command line of a pipeline script: `run` (default), `plan`, `graph`, `show`, `verify`."""

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import msgspec

from pipelines.dsl import settings
from pipelines.dsl.artifact import Artifact
from pipelines.dsl.errors import AlteredError, DslError, SettingsError
from pipelines.dsl.graph import Graph, Pipeline
from pipelines.dsl.plan import make_plan, planner
from pipelines.dsl.store import Store
from pipelines.dsl.text import plan_lines, seconds

R = TypeVar("R")
A = TypeVar("A", bound=Artifact)

VERBS = ("run", "plan", "graph", "show", "verify")
INTERRUPTED = 130

SUMMARY_CHARACTERS = 100
"""Longest description of a recipe in the help."""


@dataclass
class NoContext:
    """The context of a pipeline that needs none."""


class Parser(argparse.ArgumentParser):
    """Names the nearest flag where one is misspelt."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with status 2."""
        misspelt = message.partition("unrecognized arguments: ")[2].partition(" ")[0]
        super().error(message + (settings.nearest(misspelt, self._option_string_actions) if misspelt else ""))


def main(
    pipeline: Pipeline[R, A],
    recipes: Mapping[str, Callable[[], R]],
    default: str,
    argv: Sequence[str] | None = None,
    execution: object | None = None,
    check: Callable[[R, Any], None] | None = None,
    examples: str = "",
    parents: Sequence[argparse.ArgumentParser] = (),
) -> int:
    """Run the command line of a pipeline.

    Args:
        pipeline: the pipeline.
        recipes: name to recipe function; the first line of its docstring is shown in the help.
        default: name of the recipe that is taken when none is given.
        argv: words after the program's name (default: `sys.argv[1:]`).
        execution: default context, a frozen dataclass; `--context name=value` changes it.
        check: takes recipe and context, and raises `SettingsError` for what could never work; nothing is started then.
        examples: calls shown in the help; empty shows calls that fit every pipeline whose recipes need no more words.
        parents: flags that the script turns into `--set` words before; they are shown in the help.

    Returns:
        Exit status: 0 done, 1 a stage failed or the store is not intact, 2 the call is wrong, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser(pipeline, recipes, default, examples, parents).parse_args(words)
    try:
        job = _Job(pipeline, recipes, default, arguments, execution or NoContext(), words)
        if check is not None:
            check(job.recipe, job.execution)
        return _VERBS[arguments.verb](job)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except DslError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def default_store() -> str:
    """Return the store that is used when none is named: `RECA_STORE`, or `store` in the current folder.

    A submitted job stands in a copy of the code that Ray deletes after it, so its store is in the home folder.
    """
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return os.environ.get("RECA_STORE") or (os.path.expanduser("~/reca-store") if in_job else "store")


def open_store(uri: str) -> Store:
    """Return the store at a place; nothing is written yet.

    Raises:
        SettingsError: a file lies there, where a folder must be or can be made.
    """
    store = Store(uri)
    if store.files.is_local and os.path.isfile(store.uri):
        raise SettingsError(f"the store {store.uri} is a file; name a folder, which is made when missing: --store URI")
    return store


class _Job:
    """A parsed call: recipe with overrides, context, store; the graph is built when it is asked for."""

    def __init__(
        self,
        pipeline: Pipeline[Any, Any],
        recipes: Mapping[str, Callable[[], Any]],
        default: str,
        arguments: argparse.Namespace,
        execution: object,
        words: list[str],
    ) -> None:
        self.pipeline = pipeline
        self.arguments = arguments
        self.words = words
        self.store = open_store(arguments.store)
        self._refuse_stray_words(recipes, execution)
        base = settings.load_recipe(arguments.recipe, recipes, default)
        self.recipe, self.origins = settings.apply(base, arguments.set, "--set", f"recipe {arguments.recipe}")
        self.execution, self.context = settings.apply(execution, arguments.context, "--context", "the default")

    def _refuse_stray_words(self, recipes: Mapping[str, Callable[[], Any]], execution: object) -> None:
        """What would else be passed over in silence, or be told with the wrong mend."""
        verb, stray = self.arguments.verb, self.arguments.run
        if stray and verb != "show":
            mend = f"write {verb} --recipe {stray}" if stray in recipes else "only show takes a name, that of a run"
            raise SettingsError(f"{verb} {stray}: {mend}")
        for assignment in self.arguments.set:
            name = assignment.partition("=")[0].strip().removeprefix("execution.")
            if name in settings.leaves(type(execution)):
                raise SettingsError(f"--set {assignment}: {name} says how a job runs; write --context {name}=VALUE")

    def graph(self) -> Graph:
        return self.pipeline.build(self.recipe)

    def print_origins(self) -> None:
        print(f"pipeline {self.pipeline.name}, recipe {self.arguments.recipe}, store {self.store.uri}")
        for origin in (*self.origins, *self.context):
            print(f"  {origin.path} = {origin.value} ({origin.source})")


def _run(job: _Job) -> int:
    from pipelines.dsl.executor import RunOptions, run_graph

    job.print_origins()
    options = RunOptions(
        execution=job.execution,
        policy=job.arguments.on_code_change,
        recipe=msgspec.to_builtins(job.recipe),
        origins={origin.path: origin.source for origin in job.origins},
        command=tuple(job.words),
    )
    graph = job.graph()
    try:
        result = run_graph(graph, job.store, options)
    except KeyboardInterrupt:
        print(
            f"\ninterrupted: finished stages, and checkpoints of unfinished ones, are kept in {job.store.uri}; "
            "run the same command again to continue",
            file=sys.stderr,
        )
        return INTERRUPTED
    ran = [node for node in result.view.nodes if node.decision == "run"]
    spent = f"{len(ran)} of {len(result.view.nodes)} stages ran"
    cost = f", {seconds(sum(n.wall_s for n in ran))} of stage time, {sum(n.core_s for n in ran):.0f} core-seconds"
    print(f"{spent}{cost if ran else ''}; run {result.view.run_id}")
    print(f"result: {result.artifact.uri}")
    return 0


def _plan(job: _Job) -> int:
    job.print_origins()
    graph = job.graph()
    plan = make_plan(graph, planner(graph, job.store, job.arguments.on_code_change))
    print("\n".join(plan_lines(plan.views(job.store.uri))))
    count = len(plan.to_run())
    print(f"{count} of {len(graph.nodes)} stages would run" if count else "nothing to do: every stage is reused")
    return 0


def _graph(job: _Job) -> int:
    graph = job.graph()
    print(graph.text())
    print()
    print(graph.mermaid())
    return 0


def _show(job: _Job) -> int:
    runs = [name.removesuffix(".json") for name in job.store.files.names("runs") if name.endswith(".json")]
    if not runs:
        raise SettingsError(
            f"there is no run in the store {job.store.uri}; start one, or name another store with --store"
        )
    wanted = job.arguments.run or runs[-1]
    if wanted not in runs:
        raise SettingsError(
            f"there is no run {wanted!r} in {job.store.uri}{settings.nearest(wanted, runs)}; "
            f"the last are {', '.join(runs[-5:])}"
        )
    _print_run(job.store.read_record(f"runs/{wanted}.json"))
    return 0


def _print_run(record: Any) -> None:
    run = record["run"]
    print(f"run {run['run_id']} of pipeline {run['pipeline']}: {record['status']}")
    print(
        f"started {record['started']}, {seconds(record['wall_s'])}; command: {' '.join(record['command']) or '(none)'}"
    )
    for path, source in run["origins"].items():
        print(f"  {path} ({source})")
    width = max((len(node["name"]) for node in run["nodes"]), default=0)
    for node in run["nodes"]:
        cost = f"{seconds(node['wall_s']):>12} {node['core_s']:9.1f} core-s"
        print(f"{node['decision']:<5} {node['name']:<{width}} {cost}  {node['reason']}")
        print(f"{'':<6}{node['uri']}")
    for name, text in record["failures"].items():
        print(f"failed {name}: {text}")
    if record.get("refused"):
        print(f"refused: {record['refused']}")
    if record["result"]:
        print(f"result: {record['result']}")


def _verify(job: _Job) -> int:
    """Read every file of every artifact and compare digests."""
    count = 0
    problems: list[str] = []
    for stage, key in job.store.manifests():
        count += 1
        try:
            manifest = job.store.manifest(stage, key)
        except AlteredError as error:
            problems.append(str(error))
            continue
        if manifest is not None:
            problems += job.store.problems(manifest, full=True)
    for problem in problems:
        print(f"altered: {problem}")
    state = "all intact" if count else "nothing to verify"
    if problems:
        state = f"{len(problems)} problems; the next run makes these artifacts again"
    print(f"{count} artifacts in {job.store.uri}: {state}")
    return 1 if problems else 0


_VERBS: dict[str, Callable[[_Job], int]] = {
    "run": _run,
    "plan": _plan,
    "graph": _graph,
    "show": _show,
    "verify": _verify,
}


def _summary(recipe: Callable[[], Any]) -> str:
    """Return the first paragraph of a recipe's docstring on one line, shortened to a screen's width."""
    return textwrap.shorten((recipe.__doc__ or "").strip().partition("\n\n")[0], SUMMARY_CHARACTERS, placeholder=" ...")


def _first_number(recipe: Any) -> str:
    """The first field that holds a whole number, as `--set` takes it: an example that is valid for any pipeline."""
    values = ((path, settings.read(recipe, path)) for path in settings.leaves(type(recipe)))
    return next((f"{path}={value}" for path, value in values if type(value) is int), "a.b=VALUE")


def _examples(program: str, default: str, change: str) -> str:
    return f"""\
  {program}                run the recipe {default}, reusing what is done
  {program} plan --set {change}  say what would run, and why
  {program} run --recipe my.toml --store s3://bucket/store
  {program} show           the last run"""


def _parser(
    pipeline: Pipeline[Any, Any],
    recipes: Mapping[str, Callable[[], Any]],
    default: str,
    examples: str,
    parents: Sequence[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    program = os.path.basename(sys.argv[0]) or pipeline.name
    width = max(map(len, recipes))
    listed = "\n".join(f"  {name:<{width}}  {_summary(recipe)}" for name, recipe in recipes.items())
    shown = examples or _examples(f"python {os.path.relpath(sys.argv[0])}", default, _first_number(recipes[default]()))
    parser = Parser(
        prog=program,
        # A shortened flag of `parents` would pass the script by and be taken here in silence.
        allow_abbrev=False,
        parents=parents,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(pipeline.__doc__ or pipeline.name).strip().partition("\n")[0],
        epilog=f"""examples:
{shown}

recipes (--recipe; default {default}):
{listed}""",
    )
    parser.add_argument("verb", nargs="?", default="run", choices=VERBS, help="what to do (default: run)")
    parser.add_argument("run", nargs="?", metavar="RUN", help="for show: name of a run (default: the last)")
    parser.add_argument(
        "--recipe", default=default, metavar="NAME|FILE", help="recipe, or a .json or .toml file with one"
    )
    parser.add_argument("--set", action="append", default=[], metavar="a.b=VALUE", help="change a field; repeatable")
    parser.add_argument(
        "--context",
        action="append",
        default=[],
        metavar="a=VALUE",
        help="where and how it runs (workers=2); never in a key",
    )
    parser.add_argument(
        "--store",
        default=default_store(),
        metavar="URI",
        help="where artifacts lie (default: $RECA_STORE, else store/, or ~/reca-store in a submitted job)",
    )
    parser.add_argument(
        "--on-code-change",
        default="rerun",
        choices=("rerun", "accept", "pin"),
        help="when only code changed: run again, reuse and record the new code, or reuse and leave the record",
    )
    return parser
