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
        ValueError: as `make` or the work itself raised it, such as a BenchmarkError.
        RayError: anything else that went wrong in an actor, or an actor was lost more than `RESTARTS` times.
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
            yield _result(done)
    finally:
        for worker in workers:
            ray.kill(worker)


def _result(done: Any) -> Any:
    """What a task gives. Ray's message is the traceback in the actor; a ValueError of ours is meant for the reader."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(done)
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise error.cause from error
        raise


class _Worker:
    def __init__(self, make: Make[Any, Any]) -> None:
        import torch

        torch.set_num_threads(1)  # the bits of a sum may depend on the number of threads
        self.make = make
        self.work: Callable[[Any], Any] | None = None

    def do(self, batch: Any) -> Any:
        import ray
        import torch

        if self.work is None:
            # Not in the constructor: of what that raises, Ray tells only that the actor died.
            self.work = self.make("cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu")
        return self.work(batch)
