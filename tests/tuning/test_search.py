"""Ray Tune around a toy objective: proposals, early stops, divergence, and a sweep that is killed and continued."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuning.records import Report, SweepFolder, TrialRecord, best_of
from tuning.search import SearchSettings, _asha, rungs_of, search  # pyright: ignore[reportPrivateUsage]
from tuning.space import Range

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.ray

DRIVER = """
import json, os, signal, sys
import ray
sys.path.insert(0, {root!r})
from cluster.connect import connect
from tuning.records import SweepFolder
from tuning.search import DivergedError, SearchSettings, search
from tuning.space import Range

folder, calls, kill_at = {folder!r}, {calls!r}, sys.argv[1]

def objective(values, updates):
    free = ray.available_resources()["CPU"]
    assert free == 2, f"a trial leaves {{free}} of 2 CPUs to its stages"
    with open(calls, "a") as file:
        file.write(json.dumps([values["x"], updates]) + "\\n")
    if values["x"] > 1.5:
        raise DivergedError("NaN at update 3")
    return min(0.5, updates / 100) * values["x"]

def say(line):
    print(line, flush=True)
    if kill_at != "never" and line.startswith(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)

connect(cpus=2)
space = (Range("x", 0.0, 2.0, log=False),)
records = search(objective, space, {{"x": 1.0}}, SearchSettings(5, (10, 30), seed=3), SweepFolder(folder), say)
print(json.dumps([[r.number, r.state, r.score, r.params["x"]] for r in records]))
"""


def test_rungs() -> None:
    assert rungs_of(300) == (100, 300)
    assert rungs_of(100) == (34, 100)
    assert rungs_of(1) == (1,)


def test_finished_sweep_runs_nothing(tmp_path: Path) -> None:
    """No Ray is started: the folder says it all."""
    folder = SweepFolder(str(tmp_path))
    folder.save(TrialRecord(0, {"x": 1.0}, "done", (Report(30, 0.4),)))
    said: list[str] = []
    records = search(
        _never, (Range("x", 0, 2, log=False),), {"x": 1.0}, SearchSettings(1, (10, 30)), folder, said.append
    )
    assert [record.score for record in records] == [0.4]
    assert said == ["continuing: 1 of 1 trials are done already"]


def _never(values: object, updates: int) -> float:
    raise AssertionError("a finished sweep must not evaluate")


def test_continued_asha_stops_by_the_bar_of_earlier_trials() -> None:
    earlier = [TrialRecord(i, {"x": 1.0}, "stopped", (Report(10, score),)) for i, score in enumerate((0.5, 0.6, 0.7))]
    settings = SearchSettings(5, (10, 30))
    assert _decision(_asha(earlier, settings), 0.1) == "STOP"
    assert _decision(_asha(earlier, settings), 0.9) == "CONTINUE"
    assert _decision(_asha([], settings), 0.1) == "CONTINUE"


def _decision(scheduler: object, score: float) -> str:
    from types import SimpleNamespace

    trial = SimpleNamespace(trial_id="new")
    scheduler.on_trial_add(None, trial)  # pyright: ignore
    return scheduler.on_trial_result(None, trial, {"score": score, "updates": 10})  # pyright: ignore


@pytest.mark.timeout(240)
def test_killed_sweep_continues(tmp_path: Path, short_tmp: Path) -> None:
    folder, calls, script = tmp_path / "sweep", tmp_path / "calls.jsonl", tmp_path / "driver.py"
    script.write_text(DRIVER.format(root=str(ROOT), folder=str(folder), calls=str(calls)))
    first = _run(script, "trial 3/5", short_tmp)
    assert first.returncode == -9
    before = SweepFolder(str(folder)).load()
    assert [record.state for record in before[:2]] != ["running", "running"]
    assert before[2].state == "running", "the trial that was cut off is known"
    known_calls = len(calls.read_text().splitlines())

    second = _run(script, "never", short_tmp)
    assert second.returncode == 0, second.stderr
    assert "continuing: 2 of 5 trials are done already" in second.stdout
    after = SweepFolder(str(folder)).load()
    assert [record.number for record in after] == [0, 1, 2, 3, 4]
    assert after[:2] == before[:2], "finished trials are kept as they were"
    assert after[2].params == before[2].params, "the trial that was cut off runs again with the same values"
    assert before[0].params == {"x": 1.0}, "the first trial is the recipe's own"
    assert all(record.state in ("done", "stopped", "failed") for record in after)
    for record in after:
        assert (record.state == "failed") == (record.params["x"] > 1.5)
        assert record.state != "failed" or (record.score, record.error) == (0.0, "NaN at update 3")
    best = best_of(after)
    assert best is not None
    assert best.score == pytest.approx(0.3 * best.params["x"])
    again = [json.loads(line)[0] for line in calls.read_text().splitlines()[known_calls:]]
    assert not {record.params["x"] for record in before[:2]} & set(again), "no finished trial was evaluated again"


def _run(script: Path, kill_at: str, temporary: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, str(script), kill_at],
        capture_output=True,
        text=True,
        env={**clean, "RAY_TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        check=False,
    )
