"""Words for writing pipelines: stages, graphs, keys, a store, plans and their execution.

A stage is a typed function that makes one artifact; a pipeline is a function that calls stages; a run brings the store
up to date with it. Nothing here knows what the stages do, and neither Ray nor torch is imported until a stage has to
run.
"""

from pipelines.dsl.artifact import Artifact, External
from pipelines.dsl.cli import main
from pipelines.dsl.errors import (
    AlteredError,
    BuildError,
    CanonicalError,
    DslError,
    FingerprintError,
    LeaseLostError,
    ResourceError,
    RunError,
    SettingsError,
    StoreError,
)
from pipelines.dsl.executor import RunOptions, RunResult, run_graph
from pipelines.dsl.graph import Graph, Pipeline, pipeline
from pipelines.dsl.plan import make_plan, planner
from pipelines.dsl.runview import NodeView, RunView
from pipelines.dsl.stage import Resources, Stage, StageContext, stage
from pipelines.dsl.store import Store

__all__ = [
    "AlteredError",
    "Artifact",
    "BuildError",
    "CanonicalError",
    "DslError",
    "External",
    "FingerprintError",
    "Graph",
    "LeaseLostError",
    "NodeView",
    "Pipeline",
    "ResourceError",
    "Resources",
    "RunError",
    "RunOptions",
    "RunResult",
    "RunView",
    "SettingsError",
    "Stage",
    "StageContext",
    "Store",
    "StoreError",
    "main",
    "make_plan",
    "pipeline",
    "planner",
    "run_graph",
    "stage",
]
