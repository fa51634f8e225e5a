"""A trial is the main pipeline up to training, and then a score on validation prompts.

The stages are those of `pipelines/reca.py` with the same parameters, so their keys are the same too: what one trial
made is reused by the others, by a sweep that continues, and by `pipelines/reca.py run --recipe best.json`.
"""

import contextlib
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.artifacts import Trained
from pipelines.dsl import (
    Artifact,
    External,
    Graph,
    RunError,
    RunOptions,
    StageContext,
    Store,
    pipeline,
    run_graph,
    stage,
)
from pipelines.dsl.progress import Display, Reporter
from pipelines.reca import fit
from pipelines.stages import train
from reca.config import EvaluationConfig, ExecutionConfig, RecaRecipe
from tuning.search import DivergedError
from tuning.space import apply

DIVERGED = ("NonFiniteError", "AllRefusedError")
"""How the run tells that a loss or gradient was not finite (`reca.training.NonFiniteError`), or all that was drawn."""


@dataclass(frozen=True)
class Validation(Artifact):
    """MiniGenEval on validation prompts, overall.

    Attributes:
        overall: mean over the six tasks, 0 to 1.
        low: lower end of its 95 % interval (bootstrap over prompts).
        high: upper end.
    """

    overall: float
    low: float
    high: float


@stage(retries=0)
def validate(ctx: StageContext, model: Trained, scorer: External, evaluation: EvaluationConfig) -> Validation:
    """Score a trained model on validation prompts; test prompts are for the report alone."""
    from dataclasses import replace

    import torch

    from pipelines.stages import load_model
    from reca.evaluation.minigeneval.evaluate import evaluate, save

    torch.set_num_threads(1)
    settings = replace(evaluation, scorer=str(scorer.local()))
    result, pictures = evaluate(load_model(model.family, model.local() / "model"), settings, split="validation")
    save(result, pictures, ctx.output)
    overall = result.scores["overall"]
    return Validation.of(overall=overall.value, low=overall.low, high=overall.high)


@pipeline
def trial(recipe: RecaRecipe) -> Validation:
    """Train by a recipe and score the result on validation prompts."""
    fitted = fit(recipe)
    return validate(fitted.trained, fitted.scorer, recipe.evaluation)


def shared(recipe: RecaRecipe) -> Graph:
    """The part of every trial's graph that comes before training: data, features, the base and its gates."""
    graph = trial.build(recipe)
    training = next(node for node in graph.nodes if node.stage.name == train.name)
    nodes = graph.ancestors(training)
    return Graph("shared", nodes, nodes[-1])


@dataclass(frozen=True)
class PipelineObjective:
    """The objective of a sweep: runs the trial pipeline in a store. Picklable.

    Attributes:
        recipe: what the searched values are put into.
        store: URI of the store.
        execution: context of the stages.
        folder: folder that the recipe's relative paths start at.
        topic: under which the driver finds the trial's latest line of progress (`pipelines.dsl.progress.read_line`).
    """

    recipe: RecaRecipe
    store: str
    execution: ExecutionConfig
    folder: str
    topic: str

    def __call__(self, values: Mapping[str, float], updates: int) -> float:
        """Train for `updates` with these values and return the validation score.

        Raises:
            DivergedError: the loss, a gradient or every picture became NaN or infinite.
            RunError: a stage failed for another reason.
        """
        with _standing_in(self.folder):
            graph = trial.build(apply(self.recipe, values, updates))
            try:
                result = run_graph(graph, Store(self.store), RunOptions(execution=self.execution), _Relay(self.topic))
            except RunError as error:
                if any(name in str(error) for name in DIVERGED):
                    raise DivergedError(str(error).splitlines()[0]) from error
                raise
        assert isinstance(result.artifact, Validation)
        return result.artifact.overall


class _Relay(Display):
    """Sends what a run tells to the driver instead of printing it on a worker."""

    def __init__(self, topic: str) -> None:
        super().__init__()
        self.report = Reporter(topic)

    def event(self, line: str) -> None:
        self.report(line)

    def show(self, lines: Mapping[str, tuple[str, float]]) -> None:
        told = [f"{name}: {line}" for name, (line, _) in lines.items() if line]
        if told:
            self.report("; ".join(told))


@contextlib.contextmanager
def _standing_in(folder: str) -> Generator[None]:
    """Stand in the driver's folder where that exists (another node has it when it is the job's working directory)."""
    before = Path.cwd()
    os.chdir(folder if Path(folder).is_dir() else before)
    try:
        yield
    finally:
        os.chdir(before)
