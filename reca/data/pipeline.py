"""What every Ray Data pipeline here sets: kept order, no noise, small blocks."""

import logging
import re
from collections.abc import Iterator
from typing import Any, cast

import pyarrow as pa
import ray
from ray.data import DataContext, Dataset, ExecutionResources
from ray.exceptions import RayTaskError

from reca.data.files import DatasetError

BLOCK_BYTES = 32 << 20
"""Blocks are cut at this size, so that a task's output never holds more than a few blocks of memory."""

LOOK_AHEAD_BYTES = 1 << 30
"""Object store memory one pipeline may fill before it waits for its consumer."""


def quiet() -> None:
    """Switch Ray Data's progress bars and notices off in this process; errors still show."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def tables(dataset: Dataset, look_ahead_bytes: int = LOOK_AHEAD_BYTES) -> Iterator[pa.Table]:
    """Run a pipeline and yield its blocks in order.

    Args:
        dataset: the pipeline.
        look_ahead_bytes: object store memory it may fill ahead of its consumer.

    Raises:
        DatasetError: when a task raised one, with its own message.
    """
    context = dataset.context
    context.target_max_block_size = BLOCK_BYTES
    options = context.execution_options
    options.preserve_order = True
    options.resource_limits = ExecutionResources(object_store_memory=look_ahead_bytes)
    options.verbose_progress = False
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            yield cast("Any", batch)
    except RayTaskError as error:
        # Ray hands the exception of a task back as text; ours is meant for the reader, the frames around it are not.
        ours = re.search(r"^reca\.data\.files\.DatasetError: (.*)$", str(error), re.MULTILINE)
        if ours is None:
            raise
        raise DatasetError(ours[1]) from None


def require_cpu(cpus: float, what: str) -> None:
    """Refuse work that could only wait forever.

    Raises:
        RuntimeError: the cluster has fewer logical CPUs than `cpus`, with both numbers.
    """
    have = float(ray.cluster_resources().get("CPU", 0))
    if have < cpus:
        raise RuntimeError(
            f"{what} needs {cpus:g} CPUs, the cluster has {have:g}: it would wait forever; start Ray with more CPUs, "
            "or lower --context workers or cpus_per_worker"
        )
