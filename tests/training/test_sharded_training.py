"""Sharded workers and micro-batches through Ray Train, one of the workers killed on the way."""

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import CONFIG, toy_job, train_workers, weights, write_inputs

from reca.config import ExecutionConfig
from reca.training import TrainingJob, TrainingOutcome, train
from reca.training.checkpoints import read_history
from reca.training.state import UpdateRecord

pytestmark = pytest.mark.ray

TRAINING = replace(CONFIG, updates=60, checkpoint_every=15, ema_decay=0.9, precision="bfloat16")


def sharded_job(inputs: Path, place: Path) -> TrainingJob:
    execution = ExecutionConfig(workers=2, read_ahead=False, sharding="full", micro_batch=3)
    return replace(toy_job(inputs, place, TRAINING), execution=execution)


def outcome_of(job: TrainingJob, kill_after: int | None = None) -> TrainingOutcome:
    killed: list[int] = []

    def kill_one(records: Sequence[UpdateRecord]) -> None:
        if kill_after is not None and records[-1].update >= kill_after and not killed:
            worker = train_workers()[1]
            killed.append(worker.pid)
            worker.send_signal(signal.SIGKILL)

    outcome = train(job, lambda text, **_: None, on_records=kill_one)
    assert bool(killed) == (kill_after is not None)
    return outcome


def test_a_killed_sharded_worker_changes_nothing(cluster: str, tmp_path: Path) -> None:
    write_inputs(tmp_path)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert outcome_of(sharded_job(tmp_path, whole)).resumed_from == 0
    assert outcome_of(sharded_job(tmp_path, cut), kill_after=20).resumed_from >= 15
    ours, theirs = weights(cut), weights(whole)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    averages = [load_file(place / "out" / "ema.safetensors") for place in (cut, whole)]
    assert all(torch.equal(averages[0][name], value) for name, value in averages[1].items())
    curves = [[r.outcome() for r in read_history(place / "out" / "metrics.jsonl")] for place in (cut, whole)]
    assert curves[0] == curves[1]
    assert len(curves[0]) == TRAINING.updates
