import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from pipelines.dsl import lease as module
from pipelines.dsl.errors import LeaseLostError
from pipelines.dsl.files import Files
from pipelines.dsl.lease import Holder, Lease, process_birth

PATH = "leases/train/abc.json"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(str(tmp_path))


def plant(files: Files, **changes: object) -> Holder:
    """Write the lease of somebody else."""
    pid = os.getpid()
    holder = Holder("other", "elsewhere", pid, process_birth(pid), time.time() - 5, time.time())
    holder = msgspec.structs.replace(holder, **changes)
    files.write(PATH, msgspec.json.encode(holder))
    return holder


def test_one_holds_the_other_waits(files: Files) -> None:
    first, second = Lease(files, PATH), Lease(files, PATH)
    assert first.acquire() is None
    holder = second.acquire()
    assert holder is not None
    assert holder.describe(holder.since + 3) == f"process {os.getpid()} on {holder.host}, for 3 s"
    first.release()
    assert second.acquire() is None
    second.release()
    assert files.names("leases/train") == []


def test_releasing_leaves_the_lease_of_another(files: Files) -> None:
    first = Lease(files, PATH)
    assert first.acquire() is None
    plant(files)
    first.release()
    assert files.read(PATH) is not None


def test_a_quiet_holder_elsewhere_is_taken_over_after_the_limit(files: Files) -> None:
    plant(files, beat=time.time() - module.STALE_S + 5)
    assert Lease(files, PATH).acquire() is not None
    plant(files, beat=time.time() - module.STALE_S - 1)
    taken = Lease(files, PATH)
    assert taken.acquire() is None
    taken.confirm()


def test_a_dead_process_on_this_host_is_taken_over_at_once(files: Files) -> None:
    import socket

    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    plant(files, host=socket.gethostname(), pid=process.pid, born=process_birth(process.pid))
    assert Lease(files, PATH).acquire() is not None
    process.kill()
    process.wait()
    assert Lease(files, PATH).acquire() is None


def test_a_new_process_with_an_old_number_does_not_count(files: Files) -> None:
    import socket

    plant(files, host=socket.gethostname(), born="1")
    assert Lease(files, PATH).acquire() is None


def test_of_two_who_take_over_one_wins(files: Files) -> None:
    stale = plant(files, beat=0.0)
    first, second = Lease(files, PATH), Lease(files, PATH)
    assert first.acquire() is None
    assert second._take_over(stale) is not None, "second saw the stale lease before first replaced it"
    first.confirm()
    with pytest.raises(LeaseLostError):
        second.confirm()


def test_a_marker_left_by_a_killed_driver_does_not_block_for_ever(files: Files) -> None:
    plant(files, beat=0.0)
    files.write(f"{PATH}.other.over", str(time.time() - module.STALE_S - 1).encode())
    lease = Lease(files, PATH)
    assert lease.acquire() is not None
    assert lease.acquire() is None


def test_the_heartbeat_renews_and_notices_a_loss(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    lease = Lease(files, PATH)
    assert lease.acquire() is None
    before = lease._read()
    lease.keep()
    deadline = time.monotonic() + 10
    while lease._read() == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lease._read() != before
    # Again and again: a beat that had read its own lease just before would write over the first one.
    for _ in range(200):
        plant(files)
        if lease.lost.wait(0.05):
            break
    assert lease.lost.is_set()
    with pytest.raises(LeaseLostError, match="run the same command again"):
        lease.confirm()
    lease.release()


def test_an_unreadable_lease_is_taken_over(files: Files) -> None:
    files.write(PATH, b"{")
    lease = Lease(files, PATH)
    assert lease.acquire() is None
    lease.confirm()
