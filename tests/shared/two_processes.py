"""Two processes of one gloo group, for tests of training without Ray."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from reca.training.group import Group


def in_two_processes(body: Callable[..., None], place: Path, *arguments: object) -> None:
    """Call `body(group, place, *arguments)` in both and wait; raises what either raised. `body` is a module's name."""
    place.mkdir(parents=True, exist_ok=True)
    mp.spawn(_process, (body, place, *arguments), nprocs=2)


def _process(rank: int, body: Callable[..., None], place: Path, *arguments: object) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # as on the CPU workers of a run
    dist.init_process_group("gloo", init_method=f"file://{place}/rendezvous", rank=rank, world_size=2)
    body(Group(rank, 2), place, *arguments)
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    # An interpreter that winds down in an orderly way was aborted twice by a thread of torch's, after all was done.
    os._exit(0)
