import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from reca.data import prefetch
from reca.data.prefetch import StreamStalled, prefetched
from reca.data.stream import BatchStream


def counted(seen: list[int], n: int) -> Iterator[int]:
    for i in range(n):
        seen.append(i)
        yield i


def wait_for_threads() -> None:
    for thread in threading.enumerate():
        if thread.name == "prefetch":
            thread.join(10)


def test_order_and_end() -> None:
    assert list(prefetched(iter(range(100)), 3)) == list(range(100))


def test_it_runs_only_so_far_ahead() -> None:
    seen: list[int] = []
    items = prefetched(counted(seen, 1000), 4)
    next(items)
    ahead, limit = 1 + 4 + 1, time.monotonic() + 60  # taken, held ready, and one in hand
    while len(seen) < ahead and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(seen) == ahead
    items.close()  # type: ignore[attr-defined]
    wait_for_threads()


def test_a_stream_counts_how_long_its_consumer_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = iter([0.0, 2.0, 10.0, 10.5])
    monkeypatch.setattr("reca.data.stream.time", SimpleNamespace(perf_counter=lambda: next(marks)))
    stream = BatchStream(iter("ab"))
    assert (next(stream), stream.first_s, stream.waited_s) == ("a", 2.0, 2.0)
    assert (next(stream), stream.first_s, stream.waited_s) == ("b", 2.0, 2.5)


def test_errors_come_out_where_they_belong() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    items = prefetched(broken(), 2)
    assert next(items) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(items)


def test_a_stall_is_an_error_with_the_free_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch.ray, "available_resources", lambda: {"CPU": 0.0})
    monkeypatch.setattr(prefetch.ray, "cluster_resources", lambda: {"CPU": 2.0})
    release = threading.Event()

    def stuck() -> Iterator[int]:
        release.wait()
        yield 1

    with pytest.raises(StreamStalled, match=r"nothing for 0\.1 s; the cluster has 0 of 2 CPUs free"):
        next(prefetched(stuck(), 1, stall_seconds=0.1))
    release.set()
    wait_for_threads()


def test_the_thread_ends_when_the_consumer_leaves() -> None:
    items = prefetched(iter(range(1000)), 2)
    next(items)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "prefetch" and thread.is_alive()]
    items.close()  # type: ignore[attr-defined]
    thread.join(10)
    assert not thread.is_alive()
