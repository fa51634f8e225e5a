"""Runs a graph: decides, starts stages as Ray tasks side by side, commits what they make, and keeps what is done.

All bookkeeping is here on the driver; Ray is imported only when a stage has to run, torch never.
"""

import contextlib
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

from pipelines.dsl import environment
from pipelines.dsl.artifact import Artifact
from pipelines.dsl.books import Books
from pipelines.dsl.errors import DslError, RunError, StoreError
from pipelines.dsl.graph import Graph, Node
from pipelines.dsl.lease import Lease
from pipelines.dsl.plan import Plan, Planner, Policy, Verdict, make_plan, planner
from pipelines.dsl.progress import Display, Reporter
from pipelines.dsl.runview import NodeView, RunView
from pipelines.dsl.store import Store, store_error
from pipelines.dsl.tasks import Active, Tasks, interruptible
from pipelines.dsl.text import plan_lines, scalars, seconds
from pipelines.dsl.worker import Failure, Success, Work

POLL_S = 1.0
"""Seconds between two looks at a lease that another driver holds."""

REMIND_S = 30.0
"""Seconds between two lines about waiting for another driver."""


@dataclass(frozen=True)
class RunOptions:
    """How a run is to be done; none of it enters a key.

    Attributes:
        execution: the context handed to stages.
        policy: what to do when only code changed.
        recipe: the configuration as nested plain values, for the record.
        origins: where overridden values come from, for the record.
        command: the command line, for the record.
    """

    execution: Any = None
    policy: Policy = "rerun"
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """A finished run: its view, and the artifact of the node that the pipeline returned."""

    view: RunView
    artifact: Artifact


def run_graph(graph: Graph, store: Store, options: RunOptions, display: Display | None = None) -> RunResult:
    """Bring a graph up to date.

    Args:
        graph: what to run.
        store: where artifacts lie.
        options: context and policy.
        display: where lines go.

    Returns:
        The view and the result.

    Raises:
        ResourceError: a stage asks for more than the cluster can ever hold; nothing was started.
        StoreError: the store cannot be written; nothing was started.
        RunError: stages failed. All that was done is kept; the same call continues.
        KeyboardInterrupt: interrupted; likewise.
    """
    decider = planner(graph, store, options.policy)
    return _Run(graph, store, options, decider, display or Display()).run()


class _Run:
    """The state of one run."""

    def __init__(self, graph: Graph, store: Store, options: RunOptions, decider: Planner, display: Display) -> None:
        self.graph = graph
        self.store = store
        self.options = options
        self.display = display
        self.books = Books(store, decider)
        self.tasks = Tasks(options.execution)
        self.started = datetime.now(UTC)
        self.run_id = f"{self.started:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        self.failures: dict[str, str] = {}
        self.refused = ""
        self.skipped: list[str] = []
        self.to_run: dict[str, Verdict] = {}
        self.reminded: dict[str, float] = {}
        self.stack = contextlib.ExitStack()

    def run(self) -> RunResult:
        plan = make_plan(self.graph, self.books.planner)
        for line in plan_lines(plan.views(self.store.uri)):
            self.display.event(line)
        status = "failed"
        try:
            with self.stack:
                self._prepare(plan)
                self._loop(list(self.graph.nodes))
            status = "failed" if self.failures else "done"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except DslError as error:
            self.refused = str(error)
            raise
        finally:
            self.display.close()
            self._record(status)
        if self.failures:
            raise RunError(self._tell_failures())
        return RunResult(self._view(self.graph.nodes), self.books.artifacts[self.graph.result.name])

    def _prepare(self, plan: Plan) -> None:
        """Everything that can be refused is refused before the first stage starts."""
        nodes = plan.to_run()
        if nodes:
            self.store.probe()
            self.tasks.connect(nodes)
            self.stack.enter_context(interruptible())

    def _loop(self, pending: list[Node]) -> None:
        try:
            while pending or self.tasks.active:
                for node in list(pending):
                    if self._advance(node):
                        pending.remove(node)
                self._collect(pending)
        except BaseException:
            for active in self.tasks.cancel():
                self.store.discard(active.path)
            raise

    def _advance(self, node: Node) -> bool:
        """Take a node as far as it goes now; return whether it needs no further look (done, started, or hopeless)."""
        if any(name in self.failures or name in self.skipped for name in node.upstream):
            self.skipped.append(node.name)
            return True
        if not self.books.ready(node):
            return False
        if node.name not in self.to_run:
            verdict = self.books.decide(node)
            if verdict.decision == "reuse":
                self.books.reuse(node, verdict)
                return True
            self.to_run[node.name] = verdict
        if self.failures:
            self.skipped.append(node.name)
            return True
        return self.tasks.fits(node) and self._start(node)

    def _start(self, node: Node) -> bool:
        """Take the lease and submit, unless another driver holds it; it may meanwhile have made the artifact."""
        lease = Lease(self.store.files, f"leases/{node.stage.name}/{node.key}.json")
        holder = lease.acquire()
        if holder is not None:
            if time.monotonic() - self.reminded.get(node.name, -REMIND_S) >= REMIND_S:
                self.reminded[node.name] = time.monotonic()
                self.display.event(f"wait  {node.name}: being made by {holder.describe(time.time())}; waiting for it")
            return False
        self.stack.callback(lease.release)
        lease.keep()
        verdict = self.books.decide(node)
        if verdict.decision == "reuse":
            lease.release()
            self.books.reuse(node, verdict)
            return True
        if self.tasks.cluster is None:
            self.tasks.connect([node])
        self._submit(node, lease, 1, verdict.reason)
        return True

    def _submit(self, node: Node, lease: Lease, attempt: int, reason: str) -> None:
        work_path, beside_others = self.books.work_path(node)
        if beside_others:
            self.display.event(
                f"note  {node.name}: an unfinished attempt was made with other code, so this one starts afresh "
                "(--on-code-change accept continues it)"
            )
        work = Work(
            stage=node.stage,
            arguments=self.books.arguments(node),
            name=node.name,
            store=self.store.uri,
            path=self.store.new_attempt(node.stage.name, node.key),
            work_path=work_path,
            execution=self.options.execution,
            run=self._view(self.graph.ancestors(node)),
            reserved=node.stage.total(self.options.execution),
            report=Reporter(f"{self.run_id}/{node.key}/{attempt}"),
        )
        self.tasks.submit(node, work, lease, attempt, reason)
        self.display.event(f"start {node.name}" + (f" (attempt {attempt})" if attempt > 1 else ""))

    def _collect(self, pending: list[Node]) -> None:
        """Look after what runs; where nothing does, what is left can only wait for another driver."""
        if not self.tasks.active:
            ready = [node.name for node in pending if self.books.ready(node)]
            if ready and all(name in self.reminded for name in ready):
                time.sleep(POLL_S)
            return
        for active, line, outcome in self.tasks.finished():
            self.display.settle(active.node.name, line)
            self._finish(active, outcome)
        for active in self.tasks.active.values():
            if active.lease.lost.is_set():
                active.lease.confirm()
        self.display.show(self.tasks.lines())

    def _finish(self, active: Active, outcome: Success | Failure) -> None:
        node = active.node
        failure = self._commit(active, outcome) if isinstance(outcome, Success) else outcome
        if failure is None:
            active.lease.release()
            return
        self.store.discard(active.path)
        first = failure.message.splitlines()[0]
        if not failure.lasting and active.attempt <= node.stage.retries:
            self.display.event(f"again {node.name}: {failure.kind}: {first}")
            self._submit(node, active.lease, active.attempt + 1, active.reason)
            return
        active.lease.release()
        parts = (f"{failure.kind}: {failure.message}", failure.trace)
        self.failures[node.name] = "\n".join(part for part in parts if part)
        # The whole message ends the run's output.
        self.display.event(f"fail  {node.name}: {failure.kind}: {shorten(first, 100, placeholder=' ...')}")

    def _commit(self, active: Active, done: Success) -> Failure | None:
        """Commit a finished attempt; what goes wrong then is a failure like any other."""
        node = active.node
        try:
            active.lease.confirm()
            self.books.commit(node, done, active.path, active.attempt, active.reason)
        except OSError as error:
            return Failure("StoreError", str(store_error(self.store.uri, "write", error)), "", lasting=True)
        except DslError as error:
            return Failure(type(error).__name__, str(error), "", lasting=True)
        self.display.event(f"done  {node.name}: {seconds(done.wall_s)}{scalars(done.fields)}")
        return None

    def _view(self, nodes: tuple[Node, ...]) -> RunView:
        """The run as it stands. A run that only reuses does not spend time on looking at the machine."""
        return RunView(
            run_id=self.run_id,
            pipeline=self.graph.pipeline,
            recipe=self.options.recipe,
            origins=self.options.origins,
            nodes=self.books.seen(nodes),
            store=self.store.uri,
            environment=environment.machine() | environment.commit(Path.cwd()) if self.tasks.cluster else {},
        )

    def _record(self, status: str) -> None:
        """A run that only reuses must also work on a store that cannot be written: then it leaves no record."""
        result: NodeView | None = self.books.views.get(self.graph.result.name)
        record = {
            "run": asdict(self._view(self.graph.nodes)),
            "status": status,
            "failures": self.failures,
            "refused": self.refused,
            "command": list(self.options.command),
            "started": self.started.isoformat(timespec="seconds"),
            "wall_s": (datetime.now(UTC) - self.started).total_seconds(),
            "result": result.uri if result else "",
        }
        with contextlib.suppress(StoreError):
            self.store.write_record(f"runs/{self.run_id}.json", record)

    def _tell_failures(self) -> str:
        told = [f"stage {name} failed: {text}" for name, text in self.failures.items()]
        if self.skipped:
            told.append(f"not started because of that: {', '.join(self.skipped)}")
        kept = f"{len(self.books.artifacts)} of {len(self.graph.nodes)} stages are done and kept in {self.store.uri}"
        return "\n".join([*told, f"{kept}; mend the cause and run the same command again to continue"])
