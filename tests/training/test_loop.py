import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from training_toy import ToyFeed, ToyModel

from reca.config import TrainingConfig
from reca.training.checkpoints import WorkFolder, resume, write_checkpoint
from reca.training.group import Group
from reca.training.job import NonFiniteError
from reca.training.loop import run_updates
from reca.training.optimizer import learning_rate
from reca.training.state import TrainingState, UpdateRecord

CONFIG = TrainingConfig(
    updates=24, batch_size=8, learning_rate=1e-2, warmup_updates=4, precision="float32", checkpoint_every=6, seed=3
)


def fit(
    config: TrainingConfig,
    state: TrainingState | None = None,
    *,
    feed: ToyFeed | None = None,
    group: Group | None = None,
    checkpoints: list[int] | None = None,
    stop_after: int | None = None,
    micro_batch: int = 0,
    nan_to: Path | None = None,
) -> TrainingState:
    group = group or Group()
    state = state or TrainingState.fresh(ToyModel.seeded(1, dropout=0.1), config)

    def on_update(record: UpdateRecord) -> None:
        if record.update + 1 == stop_after:
            raise KeyboardInterrupt

    def on_nan(record: dict[str, object]) -> str:
        assert nan_to is not None
        nan_to.write_text(json.dumps(record))
        return str(nan_to)

    seen = checkpoints if checkpoints is not None else []
    feed = feed or ToyFeed(config, group)
    run_updates(state, config, feed, group, on_update, lambda state: seen.append(state.update), on_nan, micro_batch)
    return state


def weights(state: TrainingState) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in state.parameters.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_loss_falls_and_training_stops_at_the_last_update() -> None:
    seen: list[int] = []
    state = fit(replace(CONFIG, updates=60), checkpoints=seen)
    losses = [record.loss for record in state.history]
    assert [record.update for record in state.history] == list(range(60))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert seen == [6, 12, 18, 24, 30, 36, 42, 48, 54]  # the last one is the caller's


def test_schedule_counts_updates() -> None:
    rates = [record.learning_rate for record in fit(CONFIG).history]
    assert rates == [learning_rate(u, CONFIG) for u in range(24)]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates[4] == pytest.approx(0.01)
    assert rates[14] == pytest.approx(0.005)
    assert learning_rate(24, CONFIG) == pytest.approx(0.0)
    constant = replace(CONFIG, schedule="constant")
    assert {learning_rate(u, constant) for u in range(4, 24)} == {0.01}


def test_clipping_bounds_the_step_and_zero_switches_it_off() -> None:
    sgd_like = replace(CONFIG, updates=1, betas=(0.0, 0.0), eps=1.0, weight_decay=0.0, warmup_updates=0)
    start = TrainingState.fresh(ToyModel.seeded(1, dropout=0.1), sgd_like)
    before = weights(start)

    def moved(config: TrainingConfig) -> float:
        state = fit(config, TrainingState.fresh(ToyModel.seeded(1, dropout=0.1), config))
        return math.sqrt(sum(float((before[n] - w).square().sum()) for n, w in weights(state).items()))

    free, clipped = moved(replace(sgd_like, grad_clip=0.0)), moved(replace(sgd_like, grad_clip=1e-3))
    assert clipped < 1.1e-3 * sgd_like.learning_rate
    assert free > 10 * clipped


def test_decay_spares_vectors_and_frozen_parts_stay_put() -> None:
    state = TrainingState.fresh(ToyModel.seeded(1), CONFIG)
    tower = state.model.tower.weight.clone()
    decay = {id(p): g["weight_decay"] for g in state.optimizer.param_groups for p in g["params"]}
    assert {name: decay[id(p)] for name, p in state.parameters.items() if p.ndim < 2} == {
        "trunk.bias": 0.0,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "head.bias": 0.0,
        "only_text_to_image": 0.0,
    }
    assert decay[id(state.parameters["trunk.weight"])] == CONFIG.weight_decay
    fit(CONFIG, state)
    assert torch.equal(state.model.tower.weight, tower)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop_after", [7, 12, 23])
def test_resume_is_bit_identical(tmp_path: Path, stop_after: int, precision: str) -> None:
    config = replace(CONFIG, precision=precision, ema_decay=0.9, lambda_t2i=0.5)
    whole = fit(config)
    work = WorkFolder(str(tmp_path), "first", "job")
    work.take_lease()
    state = TrainingState.fresh(ToyModel.seeded(1, dropout=0.1), config)

    def save(state: TrainingState) -> None:
        folder = tmp_path / f"local-{state.update}"
        folder.mkdir()
        write_checkpoint(folder, state, "job", 1, 1, final=False)
        work.upload(folder, f"u{state.update:08d}")

    def kill(record: UpdateRecord) -> None:
        if record.update + 1 == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_updates(state, config, ToyFeed(config, Group()), Group(), kill, save, lambda _: "")
    again = TrainingState.fresh(ToyModel.seeded(99, dropout=0.1), config)
    assert resume(again, WorkFolder(str(tmp_path), "second", "job"))
    assert again.update == (stop_after - 1) // 6 * 6  # the kill came before the checkpoint of its own update
    fit(config, again)
    assert same(weights(again), weights(whole))
    assert same(again.average.weights, whole.average.weights)
    assert [r.outcome() for r in again.history] == [r.outcome() for r in whole.history]


def test_average_is_kept_beside_the_weights_and_never_used() -> None:
    with_average, without = fit(replace(CONFIG, ema_decay=0.9)), fit(CONFIG)
    assert same(weights(with_average), weights(without))
    assert not same(with_average.average.weights, weights(without))


def close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 100])
def test_micro_batches_train_like_the_whole_batch(micro_batch: int) -> None:
    """Its samples have different counts, so a mean of means would be another loss."""
    config = replace(CONFIG, lambda_t2i=0.5)
    whole = fit(config, TrainingState.fresh(ToyModel.seeded(1), config))
    parts = fit(config, TrainingState.fresh(ToyModel.seeded(1), config), micro_batch=micro_batch)
    close(weights(parts), weights(whole))
    for ours, theirs in zip(parts.history, whole.history, strict=True):
        assert (ours.keys, ours.samples) == (theirs.keys, theirs.samples)
        assert (ours.loss, ours.grad_norm) == pytest.approx((theirs.loss, theirs.grad_norm), rel=1e-5)
    assert same(weights(parts), weights(whole)) == (micro_batch >= 8)


@pytest.mark.parametrize("micro_batch", [0, 3])
@pytest.mark.parametrize("learning_rate", [1e-2, 1e30])
def test_not_a_number_stops_at_once_and_names_the_batch(tmp_path: Path, learning_rate: float, micro_batch: int) -> None:
    bad_pixels = learning_rate < 1
    config = replace(CONFIG, learning_rate=learning_rate, grad_clip=0.0, warmup_updates=0)
    state = TrainingState.fresh(ToyModel.seeded(1), config)
    feed = ToyFeed(config, Group(), bad=17 if bad_pixels else None)
    with pytest.raises(
        NonFiniteError, match=r"update \d+: the (loss|gradient) is not finite.*nan\.json.*learning_rate"
    ):
        fit(config, state, feed=feed, nan_to=tmp_path / "nan.json", micro_batch=micro_batch)
    record = json.loads((tmp_path / "nan.json").read_text())
    assert record["update"] == state.update < config.updates
    keys = record["workers"][0]["reconstruction"]["keys"]
    assert len(keys) == config.batch_size
    assert not bad_pixels or "images-0017" in keys
    assert not bad_pixels or all(torch.isfinite(w).all() for w in weights(state).values())


def test_caption_missing_is_an_error_that_names_the_row() -> None:
    class NoCaptions(ToyFeed):
        def _row(self, stream: str, position: int):  # noqa: ANN202
            return replace(super()._row(stream, position), caption=None)

    config = replace(CONFIG, arm="sft")
    with pytest.raises(ValueError, match=r"instructions-\d+: image_to_text needs a caption"):
        fit(config, feed=NoCaptions(config, Group()))


def _worker(rank: int, world: int, folder: str, config: TrainingConfig, micro_batch: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    state = TrainingState.fresh(ToyModel.seeded(1), config)
    run_updates(
        state,
        config,
        ToyFeed(config, Group(rank, world)),
        Group(rank, world),
        lambda _: None,
        lambda _: None,
        lambda _: "",
        micro_batch,
    )
    if rank == 0:
        torch.save((weights(state), [record.outcome() for record in state.history]), f"{folder}/rank0.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_two_workers_train_like_one(tmp_path: Path, micro_batch: int) -> None:
    one = fit(CONFIG, TrainingState.fresh(ToyModel.seeded(1), CONFIG))
    mp.spawn(_worker, (2, str(tmp_path), CONFIG, micro_batch), nprocs=2)
    two, history = torch.load(tmp_path / "rank0.pt")
    close(two, weights(one))
    assert [record["keys"] for record in history] == [record.keys for record in one.history]
    assert [record["loss"] for record in history] == pytest.approx([record.loss for record in one.history], rel=1e-5)
