"""One thread ahead of the consumer, with an error instead of a silent stall."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import ray

T = TypeVar("T")

STALL_SECONDS = 300.0


class StreamStalled(RuntimeError):  # noqa: N818 - reads as what happened
    """Nothing arrived for a long time; the message says what the cluster has free."""


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def prefetched(source: Iterator[T], depth: int, stall_seconds: float = STALL_SECONDS) -> Iterator[T]:
    """Run an iterator in a thread, `depth` items ahead.

    Args:
        source: what to run; what it raises is raised here.
        depth: items held ready.
        stall_seconds: longest wait for one item.

    Raises:
        StreamStalled: no item for `stall_seconds`.
    """
    ready: queue.Queue[T | _End] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: T | _End) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.5)
            except queue.Full:
                continue
            return

    def pull() -> None:
        try:
            for item in source:
                put(item)
                if stop.is_set():
                    return
            put(_End(None))
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer
            put(_End(error))

    threading.Thread(target=pull, name="prefetch", daemon=True).start()
    try:
        while True:
            try:
                item = ready.get(timeout=stall_seconds)
            except queue.Empty:
                raise StreamStalled(_stalled(stall_seconds)) from None
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stop.set()


def _stalled(seconds: float) -> str:
    free, have = ray.available_resources().get("CPU", 0.0), ray.cluster_resources().get("CPU", 0.0)
    return (
        f"the data stream gave nothing for {seconds:g} s; the cluster has {free:g} of {have:g} CPUs free. With none "
        "free the reading tasks cannot start: lower --context workers or cpus_per_worker"
    )
