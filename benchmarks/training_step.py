"""Time of one optimizer update: our loop against plain torch loops on the same model, batches and thread count.

Two pairs, interleaved: one process (the loop alone), and two workers (Ray Train with everything around it, fed from
memory maps or by Ray Data, against plain DistributedDataParallel in two processes). Goal: at most 1.05.
"""

import json
import logging
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import harness
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from training_inputs import BATCH, CONFIG, build_inputs, load_model

from reca.config import ExecutionConfig
from reca.data.encoded import EncodedDataset
from reca.data.order import sample_seed
from reca.models.base import Example, Task, UnifiedModel
from reca.objectives import template_for
from reca.training import TrainingJob
from reca.training.group import Group
from reca.training.loop import run_updates
from reca.training.sources import EncodedFeed
from reca.training.state import TrainingState

UPDATES, WARM = 40, 8
"""Updates per run; the first ones are not counted."""


SOURCES: dict[Task, str] = {"reconstruction": "images", "image_to_text": "instructions"}
"""Encoded set of each task."""


def plain_loop(folder: Path, rank: int = 0, world: int = 1) -> float:
    """A loop as one would write it by hand.

    Args:
        folder: of `build_inputs`.
        rank: this process.
        world: number of processes; above 1 the process group must be there.

    Returns:
        Median seconds per update.
    """
    torch.set_num_threads(1)
    model = load_model(folder).train()
    model.requires_grad_(False)
    parameters = [p.requires_grad_(True) for p in model.trainable().values()]
    optimizer = torch.optim.AdamW(parameters, lr=CONFIG.learning_rate, weight_decay=CONFIG.weight_decay, fused=True)
    module = DistributedDataParallel(model) if world > 1 else model
    data = {name: EncodedDataset(str(folder / name)) for name in ("images", "instructions")}
    order = torch.randperm(len(data["images"]), generator=torch.Generator().manual_seed(0)).tolist()
    share, seconds = BATCH // world, list[float]()
    for update in range(UPDATES):
        begin = time.perf_counter()
        chosen = [order[(update * BATCH + rank * share + i) % len(order)] for i in range(share)]
        work = {task: batch_of(model, task, data[name], chosen, update) for task, name in SOURCES.items()}
        with torch.autocast("cpu", torch.bfloat16, enabled=CONFIG.precision == "bfloat16"):
            terms = module(work)
            loss = torch.stack([term.mean for term in terms.values()]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CONFIG.grad_clip)
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[WARM:])


def batch_of(
    model: UnifiedModel, task: Task, data: EncodedDataset, chosen: list[int], update: int
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Collated batch and draws of one task, as `UnifiedModel.loss` takes them.

    Args:
        model: collates and draws.
        task: which loss.
        data: its encoded rows; one without a caption gets a template sentence.
        chosen: row numbers.
        update: enters the seed of every draw.

    Returns:
        Tensors by name, with the shapes and types that the family's module states.
    """
    seeds = [sample_seed(0, update, i, task) for i in chosen]
    rows = zip(data.take(chosen), seeds, strict=True)
    batch = model.collate(task, [Example(r.key, r.caption or template_for(seed), r.tensors) for r, seed in rows])
    return batch, model.draw(task, batch, seeds)


def our_loop(folder: Path) -> float:
    """`run_updates` in this process; median seconds per update."""
    torch.set_num_threads(1)
    config = replace(CONFIG, updates=UPDATES)
    state = TrainingState.fresh(load_model(folder), config)
    streams = {name: str(folder / name) for name in ("images", "instructions")}
    run_updates(
        state, config, EncodedFeed(streams, config, Group()), Group(), lambda _: None, lambda _: None, lambda _: ""
    )
    return statistics.median(record.seconds for record in state.history[WARM:])


def plain_two(folder: Path) -> float:
    """The plain loop under DistributedDataParallel in two processes of one thread each; seconds per update."""
    with tempfile.TemporaryDirectory() as meeting:
        spawn(_plain_worker, (folder, meeting), nprocs=2)
        return float(json.loads(Path(meeting, "seconds.json").read_text()))


def _plain_worker(rank: int, folder: Path, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}/rendezvous", rank=rank, world_size=2)
    seconds = plain_loop(folder, rank, 2)
    if rank == 0:
        Path(meeting, "seconds.json").write_text(json.dumps(seconds))
    dist.destroy_process_group()


def ray_two(folder: Path, read_ahead: bool) -> float:
    """The whole of `train` with two workers on a fresh local Ray; median seconds per update."""
    import ray

    from reca.training import train
    from reca.training.checkpoints import read_history

    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=f"{place}/ray",
        )
        job = TrainingJob(
            family="showo",
            checkpoint=str(folder / "base"),
            work_uri=f"{place}/work",
            output=place,
            images=str(folder / "images"),
            instructions=str(folder / "instructions"),
            training=replace(CONFIG, updates=UPDATES, checkpoint_every=20),
            execution=ExecutionConfig(workers=2, read_ahead=read_ahead),
        )
        outcome = train(job, lambda text, **_: print(text, flush=True))
        ray.shutdown()
        return statistics.median(record.seconds for record in read_history(Path(outcome.curve))[WARM:])


NOTES = (
    f"Tiny Show-o (random weights), {BATCH} pictures and {BATCH} questions per update, {CONFIG.precision} autocast, "
    f"one torch thread per process, median of updates {WARM + 1} to {UPDATES}. The plain loops save no checkpoint, log "
    "nothing and check nothing."
)


def main() -> None:
    """Write the page of one process before the one of two workers, which takes longer."""
    where = harness.machine()
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        build_inputs(folder)
        alone = {
            "plain loop, 1 process": lambda: 1000 * plain_loop(folder),
            "our loop, 1 process": lambda: 1000 * our_loop(folder),
        }
        harness.write_results(
            "training_step",
            "Training step against a plain torch loop",
            harness.interleave(alone, 5, "ms/update"),
            [("our loop, 1 process", "plain loop, 1 process", "at most 1.05")],
            where,
            NOTES,
        )
        pairs = {
            "plain DDP, 2 processes": lambda: 1000 * plain_two(folder),
            "Ray Train, 2 workers, memory maps": lambda: 1000 * ray_two(folder, read_ahead=False),
            "Ray Train, 2 workers, Ray Data": lambda: 1000 * ray_two(folder, read_ahead=True),
        }
        harness.write_results(
            "training_step_workers",
            "Training step of two workers against plain DistributedDataParallel",
            harness.interleave(pairs, 5, "ms/update"),
            [
                ("Ray Train, 2 workers, memory maps", "plain DDP, 2 processes", "at most 1.05"),
                ("Ray Train, 2 workers, Ray Data", "plain DDP, 2 processes", "at most 1.05"),
            ],
            where,
            f"{NOTES} The Ray runs save a checkpoint every 20 updates.",
        )


if __name__ == "__main__":
    main()
