"""Work spread over Ray actors that each hold a model: batches in, results out, whichever actor is free."""

from collections.abc import Callable, Generator, Sequence
from itertools import islice
from typing import Any, TypeVar

from reca.config import ExecutionConfig

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2
"""Batches each actor has in hand: the next one waits while one is worked on."""

RESTARTS = 3
"""How often a lost actor is started again, and a lost batch done again. Work must therefore be repeatable."""

Make = Callable[[str], Callable[[T], R]]
"""From a device (`cpu` or `cuda`) to the function that does a batch; called once in each actor."""


def spread(batches: Sequence[T], make: Make[T, R], execution: ExecutionConfig) -> Generator[R]:
    """Do batches on `workers` actors of `cpus_per_worker` CPUs and `gpus_per_worker` GPUs. Ray must be initialized.

    Args:
        batches: what is to be done; must be picklable.
        make: loads what the work needs; must be picklable.
        execution: how many actors, and what each reserves.

    Yields:
        One result for each batch, in the order in which they are done. Closed early, it ends the actors at once.

    Raises:
        ValueError: what the work itself raised, with its own message.
    """
    import ray

    count = min(execution.workers, len(batches))
    remote: Any = ray.remote(_Worker).options(
        num_cpus=execution.cpus_per_worker,
        num_gpus=execution.gpus_per_worker,
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
    )
    workers: list[Any] = [remote.remote(make) for _ in range(count)]
    waiting, pending = iter(batches), dict[Any, Any]()

    def hand(worker: Any) -> None:
        for batch in islice(waiting, 1):
            pending[worker.do.remote(batch)] = worker

    for worker in workers * AHEAD:
        hand(worker)
    try:
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            hand(pending.pop(done))
            yield ray.get(done)
    finally:
        for worker in workers:
            ray.kill(worker)


class _Worker:
    def __init__(self, make: Make[Any, Any]) -> None:
        import ray
        import torch

        torch.set_num_threads(1)  # the bits of a sum may depend on the number of threads
        self.work = make("cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu")

    def do(self, batch: Any) -> Any:
        return self.work(batch)
