"""What an attempt tells when its body raises."""

from pathlib import Path

import pytest

from pipelines.dsl import AlteredError, Artifact, Resources, RunView, StageContext, stage
from pipelines.dsl.worker import Failure, Work, perform


class SourceIsEmptyError(ValueError):
    """An error that this project raises on purpose."""


@stage()
def fail(ctx: StageContext, kind: str) -> Artifact:
    kinds = {"own": SourceIsEmptyError, "words": AlteredError, "input": ValueError, "bug": KeyError}
    (ctx.output / "half.txt").write_text("half")
    raise kinds[kind]("data.source is empty; give a folder")


@pytest.mark.parametrize(
    ("kind", "name", "lasting", "traced"),
    [
        ("own", "SourceIsEmptyError", True, False),
        ("words", "AlteredError", True, False),
        ("input", "ValueError", True, True),
        ("bug", "KeyError", False, True),
    ],
)
def test_errors_raised_on_purpose_come_without_a_trace(
    tmp_path: Path, kind: str, name: str, lasting: bool, traced: bool
) -> None:
    view = RunView("run", "p", {}, {}, (), str(tmp_path), {})
    work = Work(
        fail, {"kind": kind}, "fail", str(tmp_path), "objects/a", "work/a", None, view, Resources(), lambda _: None
    )
    failed = perform(work)
    assert isinstance(failed, Failure)
    assert (failed.kind, failed.lasting) == (name, lasting)
    assert "data.source is empty; give a folder" in failed.message
    assert ("Traceback" in failed.trace) == traced
    assert not (tmp_path / "objects" / "a").exists()
