import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
import training_runs
from training_runs import CONFIG, toy_job, train_workers, weights, write_inputs
from training_toy import ToyModel

from reca.config import ExecutionConfig, TrainingConfig
from reca.training import CapacityError, NonFiniteError, StalledError, TrainingJob, TrainingOutcome, train
from reca.training.checkpoints import read_history
from reca.training.group import Group
from reca.training.loop import run_updates
from reca.training.sources import EncodedFeed
from reca.training.state import TrainingState, UpdateRecord
from reca.training.supervisor import check_capacity

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def whole(
    cluster: str, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainingOutcome, list[str]]:
    """A run that nothing disturbs, fed by Ray Data: its folder, outcome and progress lines."""
    place = tmp_path_factory.mktemp("whole")
    lines: list[str] = []
    return place, train(toy_job(inputs, place, read_ahead=True), lambda text, **_: lines.append(text)), lines


def wait_for_free_cpus(count: float) -> None:
    deadline = time.monotonic() + 150  # a run may wait 120 s for its workers before it lets go of their places
    while ray.available_resources().get("CPU") != count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def history(place: Path) -> list[dict[str, object]]:
    return [record.outcome() for record in read_history(place / "out" / "metrics.jsonl")]


def assert_same(place: Path, whole: Path) -> None:
    """Final weights equal bit for bit, and every update saw the same samples and losses."""
    ours, theirs = weights(place), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert history(place) == history(whole)


def test_two_workers_on_ray_see_the_batches_of_the_plain_loop(
    inputs: Path, whole: tuple[Path, TrainingOutcome, list[str]]
) -> None:
    place, outcome, lines = whole
    state = TrainingState.fresh(ToyModel.load(inputs / "base"), replace(CONFIG, updates=20))
    state.model.dropout.p = 0.0
    job = toy_job(inputs, place)
    assert (outcome.updates, outcome.images, outcome.workers, outcome.resumed_from) == (400, 400 * 16, 2, 0)
    assert outcome.core_seconds > 0
    assert 0 <= outcome.wait_share < 1
    feed = EncodedFeed(job.streams, CONFIG, Group())
    run_updates(state, replace(CONFIG, updates=20), feed, Group(), lambda _: None, lambda _: None, lambda _: "")
    assert [record.keys for record in state.history] == [record["keys"] for record in history(place)[:20]]
    assert "updates/s" in lines[-1]
    assert list((place / "out" / "tensorboard").glob("events*"))
    kept = sorted(path.parent.name for path in (place / "work" / "attempts").glob("*/*/manifest.json"))
    assert kept == ["u00000360", "u00000400-final"]


def test_a_killed_worker_changes_nothing(
    inputs: Path, whole: tuple[Path, TrainingOutcome, list[str]], tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_one(records: Sequence[UpdateRecord]) -> None:
        if records[-1].update >= 60 and not killed:
            workers = train_workers()
            assert len(workers) == 2
            killed.append(workers[1].pid)
            workers[1].send_signal(signal.SIGKILL)

    outcome = train(toy_job(inputs, tmp_path), lambda text, **_: None, on_records=kill_one)
    assert killed
    assert 0 < outcome.resumed_from < 400
    assert_same(tmp_path, whole[0])


def test_a_killed_driver_continues_with_the_same_command(
    cluster: str, inputs: Path, whole: tuple[Path, TrainingOutcome, list[str]], tmp_path: Path
) -> None:
    command = [sys.executable, training_runs.__file__, str(inputs), str(tmp_path), cluster]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "work").glob("attempts/*/u00000080/manifest.json")):
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    outcome = train(toy_job(inputs, tmp_path), lambda text, **_: None)  # at once, while orphans may still be stepping
    assert 80 <= outcome.resumed_from < 400
    assert_same(tmp_path, whole[0])


def test_not_a_number_is_not_retried_and_frees_the_cluster(cluster: str, inputs: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, learning_rate=1e30, grad_clip=0.0, warmup_updates=0)
    with pytest.raises(NonFiniteError, match=r"update \d+: .*nan-batch\.json"):
        train(toy_job(inputs, tmp_path, config), lambda text, **_: None)
    record = json.loads((tmp_path / "work" / "nan-batch.json").read_text())
    assert [len(worker["reconstruction"]["keys"]) for worker in record["workers"]] == [4, 4]
    wait_for_free_cpus(2.0)


def test_a_run_that_gets_no_workers_ends_with_the_numbers(cluster: str, inputs: Path, tmp_path: Path) -> None:
    @ray.remote(num_cpus=1.5)
    class Neighbour:
        def here(self) -> bool:
            return True

    neighbour = Neighbour.remote()
    ray.get(neighbour.here.remote())
    with pytest.raises(
        StalledError, match=r"no update for 8 s after update 0 of 400 \(2 x 0\.5 CPU wanted, 0\.5 of 2 CPU free"
    ):
        train(replace(toy_job(inputs, tmp_path), stall_seconds=8), lambda text, **_: None)
    ray.kill(neighbour)
    wait_for_free_cpus(2.0)


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (
            ExecutionConfig(workers=8, cpus_per_worker=0.5),
            "need 5 CPUs; the cluster holds 2. Set --context workers=2",
        ),
        (ExecutionConfig(workers=2, gpus_per_worker=1), "need 2 GPUs; the cluster holds 0"),
        (ExecutionConfig(workers=3, cpus_per_worker=0.1), "batch_size 64 cannot be split evenly"),
        (
            ExecutionConfig(workers=4, cpus_per_worker=0.6, read_ahead=False),
            "need 2.4 CPUs; .* Set --context workers=3",
        ),
        (ExecutionConfig(workers=0), "at least 1"),
    ],
)
def test_more_than_the_cluster_holds_is_refused_before_the_start(execution: ExecutionConfig, message: str) -> None:
    job = TrainingJob("showo", "base", "work", "out", training=TrainingConfig(), execution=execution)
    with pytest.raises(CapacityError, match=message):
        check_capacity(job, {"CPU": 2.0})


def test_a_missing_data_set_is_named() -> None:
    with pytest.raises(ValueError, match=r"TrainingJob\.images is missing: reconstruction"):
        _ = TrainingJob("showo", "base", "work", "out").streams
