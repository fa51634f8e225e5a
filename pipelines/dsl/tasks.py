"""The driver's side of Ray: how it is reached, what it can hold, and the stages that run in it."""

import contextlib
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.dsl.errors import ResourceError, RunError
from pipelines.dsl.graph import Node
from pipelines.dsl.lease import Lease
from pipelines.dsl.progress import Reporter, forget, read_line
from pipelines.dsl.stage import Resources
from pipelines.dsl.transport import pack, perform_packed
from pipelines.dsl.worker import Failure, Success, Work

if TYPE_CHECKING:
    from cluster.connect import ClusterInfo

TICK_S = 0.25
"""Seconds between two looks at running stages."""

CANCEL_S = 5.0
"""Seconds that a cancelled stage gets to end by itself."""

TRACE_CHARACTERS = 2000
"""Last characters that are shown of what Ray says about a dead worker."""


@dataclass(frozen=True)
class Active:
    """A running attempt.

    Attributes:
        node: the node.
        lease: the lease on its key.
        attempt: 1 for the first.
        reason: why it runs.
        path: folder of the attempt below the store.
        topic: where its progress lines come.
        since: start by the monotonic clock.
    """

    node: Node
    lease: Lease
    attempt: int
    reason: str
    path: str
    topic: str
    since: float

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.since


@dataclass
class Tasks:
    """The stages that run in Ray now. Ray is imported by `connect`, not before.

    Attributes:
        execution: the context of the run.
        active: Ray's reference to attempt.
        cluster: what the cluster can hold; None before `connect`.
    """

    execution: Any
    active: dict[Any, Active] = field(default_factory=dict[Any, Active])
    cluster: "ClusterInfo | None" = None

    def connect(self, nodes: Iterable[Node]) -> None:
        """Find or start Ray, and refuse what it can never hold.

        Raises:
            SettingsError: what a node claims cannot be said in this context.
            RunError: Ray cannot be reached or started.
            ResourceError: a node asks for more than there will ever be; the message has the numbers.
        """
        from cluster.connect import connect

        # First: a claim may refuse the context itself, which needs no cluster.
        claims = [(node, node.stage.total(self.execution)) for node in nodes]
        try:
            self.cluster = connect()
        except RuntimeError as error:
            raise RunError(str(error)) from error
        for node, need in claims:
            _refuse_too_large(node, need, self.cluster)

    def fits(self, node: Node) -> bool:
        """Tell whether a node's reservations fit beside those of what runs.

        Ray counts what tasks reserve, but not what their bodies will claim through Ray Train or Ray Data.
        """
        if not self.active or self.cluster is None:
            return True
        taken = [active.node.stage.total(self.execution) for active in self.active.values()]
        need = node.stage.total(self.execution)
        return (
            sum(r.cpus for r in taken) + need.cpus <= self.cluster.max_cpus
            and sum(r.gpus for r in taken) + need.gpus <= self.cluster.max_gpus
        )

    def submit(self, node: Node, work: Work, lease: Lease, attempt: int, reason: str) -> None:
        """Start an attempt.

        Raises:
            BuildError: an argument cannot travel to a worker.
        """
        import ray

        own = node.stage.resources
        options: dict[str, Any] = {"num_cpus": own.cpus, "num_gpus": own.gpus, "max_retries": 0, "name": work.name}
        if own.memory_gb:
            options["memory"] = int(own.memory_gb * 2**30)
        reference = ray.remote(perform_packed).options(**options).remote(*pack(work))
        topic = work.report.topic if isinstance(work.report, Reporter) else ""
        self.active[reference] = Active(node, lease, attempt, reason, work.path, topic, time.monotonic())

    def finished(self) -> Iterator[tuple[Active, str, Success | Failure]]:
        """Wait a moment and yield what has ended, with its last progress line."""
        import ray

        ready, _ = ray.wait(list(self.active), num_returns=1, timeout=TICK_S)
        for reference in ready:
            active = self.active.pop(reference)
            line = read_line(active.topic)
            forget(active.topic)
            yield active, line, _outcome(reference)

    def lines(self) -> dict[str, tuple[str, float]]:
        """Return the last progress line and the seconds so far of each running stage, by display name."""
        return {active.node.name: (read_line(active.topic), active.elapsed) for active in self.active.values()}

    def cancel(self) -> list[Active]:
        """Stop what runs, politely first; return what was running."""
        stopped = list(self.active.values())
        if stopped:
            import ray

            with contextlib.suppress(Exception):
                for reference in self.active:
                    ray.cancel(reference)
                _, left = ray.wait(list(self.active), num_returns=len(self.active), timeout=CANCEL_S)
                for reference in left:
                    ray.cancel(reference, force=True)
        self.active.clear()
        return stopped


@contextlib.contextmanager
def interruptible() -> Generator[None]:
    """Let SIGTERM (`ray job stop`, a preempted machine) end a run the way Ctrl-C does.

    Ray sets a handler of its own when it starts, which ends the driver at once, so this comes after `connect`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _outcome(reference: Any) -> Success | Failure:
    """What a task returned; the death of its worker, or of its node, is a failure that another attempt may not meet."""
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(reference)
    except RayError as error:
        text = str(error).strip() or "(no message)"
        return Failure(type(error).__name__, text.splitlines()[0], text[-TRACE_CHARACTERS:], lasting=False)


def _refuse_too_large(node: Node, need: Resources, cluster: "ClusterInfo") -> None:
    lacks = [
        f"{wanted:g} {what} (the cluster can hold {most:g})"
        for what, wanted, most in (("CPUs", need.cpus, cluster.max_cpus), ("GPUs", need.gpus, cluster.max_gpus))
        if wanted > most
    ]
    if lacks:
        raise ResourceError(
            f"stage {node.name} asks for {' and '.join(lacks)}, so it could never start; nothing was started. "
            "Lower what it asks for (--context workers=..., cpus_per_worker=...) or run on a larger cluster"
        )
