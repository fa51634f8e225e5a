"""What happens in a stage's Ray task: run the body, digest and upload its files, report back."""

import errno
import resource
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec

from pipelines.dsl import environment
from pipelines.dsl.artifact import Artifact
from pipelines.dsl.canonical import dotted_name, key_of
from pipelines.dsl.errors import DslError
from pipelines.dsl.files import Files
from pipelines.dsl.manifest import StoredFile
from pipelines.dsl.modules import entries
from pipelines.dsl.progress import Reporter
from pipelines.dsl.runview import RunView
from pipelines.dsl.stage import Resources, Stage, StageContext
from pipelines.dsl.store import record_files, store_error

TRACE_LINES = 25
"""Last lines of a traceback that are shown."""


@dataclass(frozen=True)
class Work:
    """One attempt at one stage.

    Attributes:
        stage: the stage.
        arguments: its arguments, artifacts in place.
        name: display name.
        store: URI of the store.
        path: folder of this attempt below the store.
        work_path: folder below the store that outlives the attempt.
        execution: the context.
        run: the stages upstream.
        reserved: all that the stage reserves.
        report: where progress lines go.
    """

    stage: Stage[..., Any]
    arguments: dict[str, object]
    name: str
    store: str
    path: str
    work_path: str
    execution: Any
    run: RunView
    reserved: Resources
    report: Callable[[str], None]


@dataclass(frozen=True)
class Success:
    """A finished attempt: value fields, files, what it cost, where it ran."""

    fields: dict[str, Any]
    files: tuple[StoredFile, ...]
    started: str
    wall_s: float
    core_s: float
    core_source: str
    gpu_s: float
    host: str
    environment: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """A failed attempt.

    Attributes:
        kind: class of the error.
        message: its text.
        trace: the last part of the traceback; empty for errors that say all in their message.
        lasting: whether another attempt cannot help (bad input, disk full).
    """

    kind: str
    message: str
    trace: str
    lasting: bool


def perform(work: Work) -> Success | Failure:
    """Run one attempt. Never raises for what the body does wrong: that comes back as a `Failure`."""
    files = Files(work.store)
    scratch = None if files.is_local else Path(tempfile.mkdtemp(prefix="stage-"))
    output = scratch or Path(files.join(work.path))
    try:
        output.mkdir(parents=True, exist_ok=True)
        return _perform(work, files, output)
    except Exception as error:  # noqa: BLE001 - whatever the body raises is reported, not lost with the worker
        files.delete(work.path)
        return _failure(work, error)
    finally:
        if isinstance(work.report, Reporter):
            work.report.flush()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _perform(work: Work, files: Files, output: Path) -> Success:
    started, clock, cpu = datetime.now(UTC), time.perf_counter(), _cpu_seconds()
    context = StageContext(work.name, output, files.join(work.work_path), work.execution, work.run, work.report)
    artifact = work.stage.function(context, **work.arguments)
    values = _value_fields(work, artifact)
    if not files.is_local:
        files.upload(output, work.path)
    stored = record_files(files, work.path)
    wall = time.perf_counter() - clock
    measured = work.reserved == work.stage.resources
    return Success(
        fields=values,
        files=stored,
        started=started.isoformat(timespec="seconds"),
        wall_s=wall,
        core_s=_cpu_seconds() - cpu if measured else wall * work.reserved.cpus,
        core_source="cpu time" if measured else "reserved cores x wall",
        gpu_s=wall * work.reserved.gpus,
        host=socket.gethostname(),
        environment=environment.machine(),
    )


def _value_fields(work: Work, artifact: object) -> dict[str, Any]:
    """Check what the body returned, and that its fields survive the way through JSON."""
    wanted = work.stage.output
    if not isinstance(artifact, wanted):
        raise TypeError(
            f"stage {work.stage.name} returned {type(artifact).__name__}, but is declared to return {wanted.__name__}; "
            f"end the body with `return {wanted.__name__}.of(...)`"
        )
    values = cast(Artifact, artifact).value_fields()
    for name, value in values.items():
        key_of(value, f"{wanted.__name__}.{name}")
    plain: dict[str, Any] = msgspec.to_builtins(values)
    if restore(wanted, plain, "", "").value_fields() != values:
        raise TypeError(
            f"the fields of {wanted.__name__} do not survive JSON; declare JSON-able types for {list(values)}"
        )
    return plain


def restore(output: type[Artifact], plain: dict[str, Any], uri: str, key: str) -> Artifact:
    """Make an artifact again from its manifest's value fields.

    Raises:
        DslError: the class has changed since and the fields no longer fit.
    """
    known = {f.name for f in fields(output)}
    if not set(plain) <= known:
        raise DslError(
            f"the artifact {uri} has fields {sorted(set(plain) - known)}, unknown to {output.__name__}; rerun it"
        )
    try:
        return msgspec.convert({**plain, "uri": uri, "key": key}, output)
    except msgspec.ValidationError as error:
        raise DslError(f"the artifact {uri} does not fit {output.__name__} any more ({error}); rerun it") from error


def _failure(work: Work, error: Exception) -> Failure:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full:
        assert isinstance(error, OSError)
        return Failure("OSError", str(store_error(work.store, "write", error)), "", lasting=True)
    lines = traceback.format_exception(error)
    calm = isinstance(error, ValueError | DslError)
    trace = "" if _says_all(work, error) else "".join(lines)
    message = str(error) or "(no message)"
    return Failure(type(error).__name__, message, "\n".join(trace.splitlines()[-TRACE_LINES:]), lasting=calm)


def _says_all(work: Work, error: Exception) -> bool:
    """Tell whether an error was raised on purpose: its class is the words' or the stage's project's own."""
    top = type(error).__module__.partition(".")[0]
    file = getattr(sys.modules.get(work.stage.function.__module__), "__file__", None)
    own = entries(dotted_name(Path(file).resolve())[1]) if file else frozenset[str]()
    return isinstance(error, DslError) or top in own or f"{top}.py" in own


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
