"""What a run looked like, as plain JSON-able data: read by reports, by `show` and by the progress display.

A view is *never* part of a key: timings and reasons differ from run to run while identity stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Decision = Literal["run", "reuse", "check"]
"""`run`: the stage ran (or will). `reuse`: its artifact was already there. `check` (only in plans): an input is made
again first; the stage is reused when that input comes out identical, and run when not."""


@dataclass(frozen=True)
class NodeView:
    """One stage of a run.

    Attributes:
        name: display name, unique in the graph (`train`, or what `stage.named(...)` said).
        stage: name of the stage function.
        key: identity, 40 hexadecimal digits.
        upstream: names of the stages whose artifacts this one takes, in parameter order.
        decision: what was done.
        reason: why, in words: the field, the definition or the upstream stage that changed, or what made reuse
            possible.
        wall_s: seconds the stage took when it ran (for a reused stage: at that time); 0 while unknown.
        core_s: CPU core-seconds it cost, measured or reserved as `core_source` says.
        core_source: `cpu time` (of the stage's process and its children), `reserved cores x wall`, or empty while
            unknown.
        gpu_s: GPU device-seconds reserved.
        started: start in ISO 8601 with UTC offset, empty while unknown.
        uri: folder of the artifact, empty while unknown.
        fields: the artifact's value fields.
    """

    name: str
    stage: str
    key: str
    upstream: tuple[str, ...]
    decision: Decision
    reason: str
    wall_s: float = 0.0
    core_s: float = 0.0
    core_source: str = ""
    gpu_s: float = 0.0
    started: str = ""
    uri: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class RunView:
    """A run, or the part of it upstream of one stage (`ctx.run`).

    Attributes:
        run_id: name of the run, sortable by start time.
        pipeline: name of the pipeline function.
        recipe: the whole configuration as nested plain values.
        origins: for every overridden field, where its value comes from (`--set; recipe smoke says 1000`).
        nodes: stages in an order in which each stands after its upstream.
        store: URI of the store.
        environment: versions, commit, processor of the driver at the time.
    """

    run_id: str
    pipeline: str
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    nodes: tuple[NodeView, ...] = ()
    store: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict[str, Any])
