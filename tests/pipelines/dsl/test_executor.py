"""Runs of small graphs in a small Ray, with whatever can go wrong in a stage."""

import errno
import io
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from small_cluster import small_cluster

from pipelines.dsl import (
    Artifact,
    External,
    NodeView,
    ResourceError,
    Resources,
    RunError,
    RunOptions,
    RunView,
    StageContext,
    Store,
    StoreError,
    make_plan,
    pipeline,
    planner,
    run_graph,
    stage,
)
from pipelines.dsl.executor import RunResult
from pipelines.dsl.progress import Display

pytestmark = pytest.mark.ray


@dataclass(frozen=True)
class Number(Artifact):
    value: float
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table(Artifact):
    rows: tuple[NodeView, ...]


@dataclass(frozen=True)
class Log:
    """Context of the tests: where bodies note that they ran, and what they wait for."""

    folder: str
    workers: int = 1

    def note(self, name: str) -> int:
        """Note one more run of a body; return how many there were before."""
        folder = Path(self.folder, name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / uuid.uuid4().hex).touch()
        return len(list(folder.iterdir())) - 1

    def count(self, name: str) -> int:
        folder = Path(self.folder, name)
        return len(list(folder.iterdir())) if folder.exists() else 0


HALF = Resources(cpus=0.5)


@stage(resources=HALF)
def source(ctx: StageContext, value: float, seed: int = 0) -> Number:
    ctx.execution.note("source")
    (ctx.output / "deep").mkdir()
    (ctx.output / "deep" / "value.txt").write_text(str(value))
    return Number.of(value=value, parts=(1, 2))


@stage(resources=HALF)
def double(ctx: StageContext, number: Number) -> Number:
    ctx.execution.note("double")
    return Number.of(value=2 * float((number.local() / "deep" / "value.txt").read_text()))


@stage(resources=HALF)
def add(ctx: StageContext, numbers: tuple[Number, ...]) -> Number:
    ctx.execution.note("add")
    ctx.progress("adding", count=len(numbers), share=0.5)
    time.sleep(0.5)
    return Number.of(value=sum(number.value for number in numbers))


@stage(resources=HALF)
def meet(ctx: StageContext, name: str, other: str) -> Number:
    """Ends only when its partner runs at the same time."""
    ctx.execution.note(name)
    deadline = time.monotonic() + 60
    while not ctx.execution.count(other):
        if time.monotonic() > deadline:
            raise ValueError(f"{other} never ran beside {name}")
        time.sleep(0.02)
    return Number.of(value=1.0)


@stage(resources=HALF, retries=2)
def flaky(ctx: StageContext, fails: int, how: str) -> Number:
    attempt = ctx.execution.note("flaky")
    (ctx.output / "half.txt").write_text("half")
    if attempt < fails:
        if how == "death":
            os._exit(1)
        raise {"error": RuntimeError, "input": ValueError}[how](f"attempt {attempt} does not work")
    return Number.of(value=float(attempt))


@stage(resources=HALF)
def fill_disk(ctx: StageContext) -> Number:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@stage(resources=HALF)
def wrong_result(ctx: StageContext) -> Number:
    return "a text"  # type: ignore[return-value]


@stage(resources=HALF)
def not_a_number(ctx: StageContext) -> Number:
    return Number.of(value=float("nan"))


@stage(resources=HALF)
def look(ctx: StageContext, number: Number) -> Table:
    assert isinstance(ctx.run, RunView)
    (ctx.output / "run.txt").write_text(ctx.run.run_id)
    return Table.of(rows=ctx.run.nodes)


@stage(resources=HALF)
def read(ctx: StageContext, place: External) -> Number:
    return Number.of(value=float(len(place.local().read_bytes())))


@stage(resources=HALF)
def alter_own_input(ctx: StageContext, number: Number) -> Number:
    (number.local() / "deep" / "value.txt").write_text("9")
    number.local()
    return number


@stage(resources=Resources(cpus=0), claims=lambda execution: Resources(cpus=execution.workers))
def greedy(ctx: StageContext) -> Number:
    return Number.of(value=0.0)


@pytest.fixture(scope="module")
def cluster(s3: str) -> Iterator[None]:
    """Two logical CPUs, and a bucket that workers reach."""
    with small_cluster():
        yield


class Bench:
    """A store, a log, and runs over them."""

    def __init__(self, folder: Path, store: str = "") -> None:
        self.folder = folder
        self.store = Store(store or str(folder / "store"))
        self.log = Log(str(folder / "log"))
        self.printed = ""

    def run(self, build: Any, **options: Any) -> RunResult:
        stream = io.StringIO()
        options.setdefault("execution", self.log)
        try:
            return run_graph(self.graph(build), self.store, RunOptions(**options), Display(stream))
        finally:
            self.printed = stream.getvalue()

    def graph(self, build: Any) -> Any:
        return pipeline(lambda _: build()).build(None)

    def decisions(self, result: RunResult) -> dict[str, str]:
        return {node.name: node.decision for node in result.view.nodes}

    def plan(self, build: Any) -> dict[str, str]:
        graph = self.graph(build)
        verdicts = make_plan(graph, planner(graph, self.store, "rerun")).verdicts
        return {name: verdict.decision for name, verdict in verdicts.items()}

    def left(self) -> list[str]:
        """Files of attempts that no manifest names, leases, and work folders."""
        kept = {self.store.manifest(*found).path for found in self.store.manifests()}  # type: ignore[union-attr]
        objects = [e.path for e in self.store.files.listing("objects")]
        stray = [path for path in objects if not any(f"objects/{path}".startswith(name) for name in kept)]
        return stray + self.store.files.names("leases/source") + self.store.files.names("work/source")


@pytest.fixture
def bench(cluster: None, tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def chain(value: float = 3.0, seed: int = 0) -> Any:
    number = source(value, seed)
    return add((double(number), number))


def test_a_run_makes_everything_and_the_next_reuses_it(bench: Bench) -> None:
    result = bench.run(chain)
    assert result.artifact.value == 9.0  # type: ignore[attr-defined]
    assert bench.decisions(result) == {"source": "run", "double": "run", "add": "run"}
    assert [line.split()[0] for line in bench.printed.splitlines()] == ["run"] * 3 + ["start", "done"] * 2 + [
        "start",
        "add:",
        "done",
    ]
    assert "add: adding count=2 share=0.5" in bench.printed
    again = bench.run(chain)
    assert set(bench.decisions(again).values()) == {"reuse"}
    assert again.artifact == result.artifact
    assert [bench.log.count(name) for name in ("source", "double", "add")] == [1, 1, 1]
    assert bench.left() == []


def test_a_run_on_s3(cluster: None, s3: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, f"{s3}/{uuid.uuid4().hex}")
    result = bench.run(chain)
    assert result.artifact.value == 9.0  # type: ignore[attr-defined]
    assert result.artifact.uri.startswith("s3://")
    assert set(bench.decisions(bench.run(chain)).values()) == {"reuse"}
    assert bench.left() == []


def test_independent_stages_run_side_by_side(bench: Bench) -> None:
    result = bench.run(lambda: add((meet("a", "b"), meet("b", "a"))))
    assert result.artifact.value == 2.0  # type: ignore[attr-defined]


def test_an_upstream_with_the_same_result_spares_its_dependants(bench: Bench) -> None:
    """Another seed, other identity, same bytes: only `source` runs."""
    bench.run(chain)
    result = bench.run(lambda: chain(seed=1))
    assert bench.decisions(result) == {"source": "run", "double": "reuse", "add": "reuse"}
    assert "identical" in result.view.nodes[1].reason
    assert set(bench.plan(lambda: chain(seed=1)).values()) == {"reuse"}


def test_an_altered_file_is_made_again_and_dependants_are_spared(bench: Bench) -> None:
    first = bench.run(chain)
    Path(first.view.nodes[0].uri, "deep", "value.txt").write_text("4.0")
    result = bench.run(chain)
    assert bench.decisions(result) == {"source": "run", "double": "reuse", "add": "reuse"}
    assert "value.txt was altered" in result.view.nodes[0].reason
    assert result.view.nodes[1].reason == "source ran again and came out the same"
    assert result.artifact.value == 9.0  # type: ignore[attr-defined]


def test_an_artifact_altered_while_running_is_an_error_that_names_the_file(bench: Bench) -> None:
    with pytest.raises(RunError, match=r"AlteredError: .*value\.txt was altered.*run the same command again"):
        bench.run(lambda: alter_own_input(source(3.0)))
    assert bench.plan(lambda: alter_own_input(source(3.0))) == {"source": "run", "alter_own_input": "run"}


@pytest.mark.parametrize("how", ["error", "death"])
def test_errors_and_deaths_are_tried_again(bench: Bench, how: str) -> None:
    result = bench.run(lambda: flaky(2, how))
    assert result.artifact.value == 2.0  # type: ignore[attr-defined]
    assert bench.printed.count("again flaky") == 2
    assert bench.left() == []


def test_bad_input_is_not_tried_again_and_others_are_kept(bench: Bench) -> None:
    with pytest.raises(RunError) as error:
        bench.run(lambda: add((flaky(9, "input"), source(1.0))))
    text = str(error.value)
    assert "stage flaky failed: ValueError: attempt 0 does not work" in text
    assert "test_executor.py" in text, "the traceback's last part"
    assert "not started because of that: add" in text
    assert "1 of 3 stages are done and kept" in text
    assert "run the same command again to continue" in text
    assert bench.log.count("flaky") == 1
    assert bench.plan(lambda: add((flaky(9, "input"), source(1.0))))["source"] == "reuse"
    assert bench.left() == []


def test_retries_end(bench: Bench) -> None:
    with pytest.raises(RunError, match="attempt 2 does not work"):
        bench.run(lambda: flaky(9, "error"))
    assert bench.log.count("flaky") == 3


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: fill_disk(), "the disk is full at the store .*; free space there"),
        (lambda: wrong_result(), r"returned str, but is declared to return Number; .*Number\.of"),
        (lambda: not_a_number(), r"Number\.value is nan"),
    ],
)
def test_failures_say_the_mend(bench: Bench, build: Any, says: str) -> None:
    with pytest.raises(RunError, match=says):
        bench.run(build)
    assert bench.left() == []


def test_a_disk_that_fills_up_while_committing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Store.commit

    def full(self: Store, manifest: Any) -> None:
        if manifest.stage == "double":
            raise StoreError("the disk is full")
        commit(self, manifest)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "commit", full)
        with pytest.raises(RunError, match="stage double failed: StoreError: the disk is full"):
            bench.run(chain)
    assert bench.left() == []
    assert bench.decisions(bench.run(chain)) == {"source": "reuse", "double": "run", "add": "run"}


def test_a_stage_sees_the_run_upstream_of_it(bench: Bench) -> None:
    bench.run(lambda: source(3.0))
    result = bench.run(lambda: look(double(source(3.0))))
    rows = result.artifact.rows  # type: ignore[attr-defined]
    assert [(row.name, row.decision, row.upstream) for row in rows] == [
        ("source", "reuse", ()),
        ("double", "run", ("source",)),
    ]
    assert all(row.wall_s > 0 and row.core_source == "cpu time" and row.started for row in rows)


def test_an_outside_input_reaches_a_worker_that_stands_elsewhere(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.folder / "input.bin").write_bytes(b"12345")
    monkeypatch.chdir(bench.folder)
    assert bench.run(lambda: read(External("input.bin"))).artifact.value == 5.0  # type: ignore[attr-defined]


def test_more_than_the_cluster_can_hold_is_refused_before_the_start(bench: Bench) -> None:
    with pytest.raises(ResourceError, match=r"greedy asks for 3 CPUs \(the cluster can hold 2\).*nothing was started"):
        bench.run(lambda: add((greedy(), source(1.0))), execution=Log(bench.log.folder, workers=3))
    assert bench.log.count("source") == 0
    records = [bench.store.read_record(f"runs/{name}") for name in bench.store.files.names("runs")]
    (refused,) = [record["refused"] for record in records if record["refused"]]
    assert "greedy asks for 3 CPUs" in refused, "show says why"


def test_a_store_that_cannot_be_written(cluster: None, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    bench = Bench(tmp_path, str(tmp_path / "file" / "store"))
    with pytest.raises(StoreError, match="cannot write the store"):
        bench.run(chain)


def test_stages_made_inside_functions_run_too(bench: Bench) -> None:
    @stage(resources=HALF)
    def local(ctx: StageContext, value: int) -> Number:
        return Number.of(value=float(value + offset))

    offset = 2
    assert bench.run(lambda: local(1)).artifact.value == 3.0  # type: ignore[attr-defined]


def test_runs_leave_records(bench: Bench) -> None:
    bench.run(chain, command=("run", "--set", "a=1"), origins={"a": "--set; recipe says 0"})
    with pytest.raises(RunError):
        bench.run(lambda: flaky(9, "input"))
    records = [bench.store.read_record(f"runs/{name}") for name in bench.store.files.names("runs")]
    # Names sort by second and then at random: two runs within one second come in any order.
    done, failed = sorted(records, key=lambda record: record["status"])
    assert (done["status"], failed["status"]) == ("done", "failed")
    assert done["command"] == ["run", "--set", "a=1"]
    assert done["run"]["environment"]["packages"]["ray"] == ray.__version__
    assert "attempt 0" in failed["failures"]["flaky"]
