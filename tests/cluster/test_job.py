"""The main job on a cluster: `ray job submit --working-dir . -- python pipelines/reca.py run --recipe smoke`."""

import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from head import Head, running_head

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.ray


def test_upload_leaves_out_what_does_not_run(tmp_path: Path) -> None:
    """What Ray would ship as the working directory: code and its data files, not environment, history or results."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    names = [name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")]
    tops = {name.split("/")[0] for name in names}
    assert {"reca", "pipelines", "cluster", "tuning", "pyproject.toml"} <= tops
    assert not tops & {".venv", ".git", "store", "runs", "docs", "tests", "benchmarks"}
    assert {"reca/config.py", "reca/templates.txt", "pipelines/report_template.html.jinja"} <= set(names)
    assert package.stat().st_size < 64e6, "Ray refuses packages over 500 MB, and every node downloads this one"


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as started:
        yield started


@pytest.fixture(scope="module")
def store(head: Head) -> Path:
    """Where a job keeps its artifacts when nobody says where: below the home folder of the head's user."""
    return Path(head.environment["HOME"]) / "reca-store"


@pytest.mark.timeout(600)
def test_script_as_a_job(head: Head, store: Path, smallest_run: list[str]) -> None:
    done = head.submit(ROOT, "python", "pipelines/reca.py", "run", "--recipe", "smoke", *smallest_run)
    assert done.returncode == 0, _explain(done)
    made = {path.name for path in (store / "manifests").iterdir()}
    assert made == {"load_checkpoint", "prepare", "encode", "evaluate", "gate", "train", "report"}
    assert list(store.rglob("report.html")), "the report is in the store"
    lines = done.stdout.splitlines()
    assert {"start train", "start report"} <= set(lines), "progress is streamed"
    assert any(line.startswith("  train: update 1/1") for line in lines), "progress inside a stage is streamed"


@pytest.mark.timeout(300)
def test_module_as_a_job_reuses_everything(head: Head, store: Path, smallest_run: list[str]) -> None:
    before = sorted((store / "manifests").rglob("*.json"))
    done = head.submit(ROOT, "python", "-m", "pipelines.reca", "run", "--recipe", "smoke", *smallest_run)
    assert done.returncode == 0, _explain(done)
    assert "0 of 10 stages ran" in done.stdout, _explain(done)
    assert sorted((store / "manifests").rglob("*.json")) == before, "a second job makes nothing new"


@pytest.mark.timeout(300)
def test_failing_job_says_why(head: Head) -> None:
    done = head.submit(ROOT, "python", "pipelines/reca.py", "run", "--recipe", "smok")
    assert done.returncode != 0
    assert "there is no recipe 'smok'; did you mean 'smoke'?" in done.stdout


def _explain(done: subprocess.CompletedProcess[str]) -> str:
    return f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
