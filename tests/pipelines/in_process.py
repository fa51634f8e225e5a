"""An evaluation in this process: every stage in graph order, without Ray and without a store."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.dsl import Artifact, RunView, StageContext
from pipelines.dsl.graph import resolve
from pipelines.evaluate import evaluate
from reca.evaluation import looking
from reca.evaluation.run_config import BenchmarkRecipe, JudgingExecution


def spread(batches: Sequence[Any], make: Callable[[str], Callable[[Any], Any]], _: object) -> Iterator[Any]:
    """Stands for `reca.evaluation.actors.spread`: batches one after another."""
    work = make("cpu")
    yield from map(work, batches)


def stay_here(monkeypatch: pytest.MonkeyPatch, *more: Any) -> None:
    """Batches are done in this process, and artifacts lie where `run` puts them instead of in a store."""
    for module in (looking, *more):
        monkeypatch.setattr(module, "spread", spread)
    monkeypatch.setattr(Artifact, "local", lambda artifact: Path(artifact.uri))


def run(
    recipe: BenchmarkRecipe, folder: Path, execution: JudgingExecution | None = None, store: str = ""
) -> dict[str, Any]:
    """Run every stage, each told of the `store`; `summary.json`, and the artifacts by stage name under `made`."""
    made: dict[str, Artifact] = {}
    graph = evaluate.build(recipe)
    view = RunView("test", "evaluate", store=store)
    for number, node in enumerate(graph.nodes):
        output = folder / f"{number}"
        output.mkdir(parents=True)
        work = str(folder / f"work{number}")
        context = StageContext(node.name, output, work, execution or JudgingExecution(), view, lambda _: None)
        artifact = node.stage.function(context, **resolve(node, lambda n: made[n.name]))
        made[node.name] = replace(artifact, uri=str(output), key=node.key)
    result = Path(made[graph.result.name].uri)
    assert (result / "tables.md").read_text().startswith("# Benchmarks: tiny")
    assert (result / "report.html").read_text().startswith("<!DOCTYPE html>")
    return {**json.loads((result / "summary.json").read_text()), "made": made, "folder": result}
