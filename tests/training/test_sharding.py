"""Sharded training on two processes: it resumes bit for bit, and its checkpoints are those of any other run."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_toy import ToyFeed, ToyModel
from two_processes import in_two_processes

from reca.config import TrainingConfig
from reca.models.bagel.config import BagelConfig
from reca.models.bagel.model import BagelModel
from reca.models.janus.config import janus_pro_7b
from reca.models.janus.model import JanusProModel
from reca.training.checkpoints import WorkFolder, lend_parts, read_history, resume, write_checkpoint
from reca.training.group import Group
from reca.training.job import NonFiniteError
from reca.training.loop import run_updates
from reca.training.sharding import blocks
from reca.training.state import TrainingState

CONFIG = TrainingConfig(
    updates=12, batch_size=8, learning_rate=1e-2, warmup_updates=4, checkpoint_every=6, seed=3, ema_decay=0.9
)


def train(place: Path, attempt: str, group: Group, sharded: bool, config: TrainingConfig = CONFIG) -> TrainingState:
    """Continue from the newest checkpoint in `place`, if any, to the last update, as a train worker does."""
    work = WorkFolder(str(place), attempt, "job")
    if group.rank == 0:
        work.take_lease()
    dropout = 0.0 if group.world == 1 or config.precision == "float32" else 0.1
    state = TrainingState.fresh(ToyModel.seeded(1, dropout), config, group if sharded else None)
    if group.rank == 0:
        resume(state, work)
    update = group.from_first(state.update)
    if group.rank != 0 and update > 0:
        resume(state, work, update)

    def save(state: TrainingState, final: bool = False) -> None:
        if group.rank != 0:
            lend_parts(state, final)
            return
        local = place / f"local-{attempt}-{state.update}"
        local.mkdir(parents=True)
        write_checkpoint(local, state, "job", group.world, 1, final)
        work.upload(local, f"u{state.update:08d}")

    run_updates(state, config, ToyFeed(config, group), group, lambda _: None, save, lambda _: "the record")
    save(state, final=True)
    return state


def final(place: Path, attempt: str) -> Path:
    return place / "attempts" / attempt / "u00000012"


def same_files(ours: Path, theirs: Path) -> None:
    for name in ("state.safetensors", "ema.safetensors", "model/model.safetensors"):
        first, second = load_file(ours / name), load_file(theirs / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
    curves = [[r.outcome() for r in read_history(folder / "history.jsonl")] for folder in (ours, theirs)]
    assert curves[0] == curves[1]


def close_files(ours: Path, theirs: Path) -> None:
    for name in ("state.safetensors", "ema.safetensors", "model/model.safetensors"):
        first, second = load_file(ours / name), load_file(theirs / name)
        assert first.keys() == second.keys()
        for key, value in second.items():
            torch.testing.assert_close(first[key], value, atol=2e-6, rtol=1e-5)


def _stop_and_continue(group: Group, place: Path) -> None:
    train(place / "whole", "whole", group, sharded=True)
    # A run that is killed behind its checkpoint of update 6: one of 6 updates under the same schedule.
    work = WorkFolder(str(place / "whole"), "whole", "job")
    if group.rank == 0:
        work.fs.copy(f"{work.attempts}/whole/u00000006", str(place / "cut/attempts/first/u00000006"), recursive=True)
    group.from_first(None)
    state = train(place / "cut", "second", group, sharded=True)
    assert state.sharded


def test_a_sharded_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    """With bfloat16, dropout, clipping and a moving average."""
    in_two_processes(_stop_and_continue, tmp_path)
    same_files(final(tmp_path / "cut", "second"), final(tmp_path / "whole", "whole"))


FLOAT32 = replace(CONFIG, precision="float32")


def _train(group: Group, place: Path, attempt: str, sharded: bool) -> None:
    train(place, attempt, group, sharded, FLOAT32)


@pytest.mark.parametrize("first", ["one worker", "sharded"])
def test_a_run_continues_on_another_number_of_workers(tmp_path: Path, first: str) -> None:
    """One worker and two sharded ones write the same checkpoints up to rounding, and each continues the other's."""
    whole, mixed = tmp_path / "whole", tmp_path / "mixed"
    if first == "one worker":
        train(whole, "a", Group(), False, FLOAT32)
    else:
        in_two_processes(_train, whole, "a", True)
    (mixed / "attempts/a").mkdir(parents=True)
    (whole / "attempts/a/u00000006").rename(mixed / "attempts/a/u00000006")
    if first == "one worker":
        in_two_processes(_train, mixed, "b", True)
    else:
        train(mixed, "b", Group(), False, FLOAT32)
    close_files(final(mixed, "b"), final(whole, "a"))
    assert len(read_history(final(mixed, "b") / "history.jsonl")) == 12


def _not_a_number(group: Group, place: Path) -> None:
    config = replace(CONFIG, learning_rate=1e30, grad_clip=0.0, warmup_updates=0)
    with pytest.raises(NonFiniteError, match="the record"):
        train(place, "a", group, True, config)


def test_not_a_number_is_told_on_every_sharded_worker(tmp_path: Path) -> None:
    in_two_processes(_not_a_number, tmp_path)


@pytest.mark.parametrize("name", ["bagel_7b", "janus_pro_7b"])
def test_the_documented_memory_is_that_of_the_released_sizes(name: str) -> None:
    with torch.device("meta"):
        model = BagelModel(BagelConfig()) if name == "bagel_7b" else JanusProModel(janus_pro_7b())
    trained = {id(value) for value in model.trainable().values()}
    layers = list(blocks(model))
    largest = max(layers, key=lambda layer: sum(value.numel() for value in layer.parameters()))
    inside = {id(value) for layer in layers for value in layer.parameters()}

    def numbers(values: Iterable[torch.Tensor], only_trained: bool) -> int:
        return sum(value.numel() for value in values if not only_trained or id(value) in trained)

    outside = [value for value in model.parameters() if id(value) not in inside]
    p, everything = numbers(model.parameters(), True), numbers(model.parameters(), False)
    r, r_trained = numbers(outside, False), numbers(outside, True)
    b, b_trained = numbers(largest.parameters(), False), numbers(largest.parameters(), True)
    own = 16 * p + 4 * (everything - p)
    gathered = 4 * r + 4 * r_trained + 8 * b + 4 * b_trained
    cells = [f"`{name}`", f"{p:,}", f"{everything - p:,}", f"{r:,}; {r_trained:,}", f"{b:,}; {b_trained:,}"]
    cells += [f"{value / 1e9:.1f} GB" for value in (own, own / 8, own / 32, gathered, 2 * p)]
    documented = Path(__file__).resolve().parents[2] / "docs/training.md"
    assert f"| {' | '.join(cells)} |" in documented.read_text(encoding="utf-8")


def test_blocks_are_the_layers_of_every_outermost_stack() -> None:
    inner = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)]))
    model = nn.ModuleDict({"tower": nn.Sequential(nn.ModuleList([inner, nn.Dropout()])), "head": nn.Linear(2, 2)})
    assert list(blocks(model)) == [inner]
