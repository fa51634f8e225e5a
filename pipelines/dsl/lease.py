"""A lease on a key, so that two drivers with one store do not compute the same artifact at once.

The holder renews it from a thread. It is stale when its heartbeat is older than `STALE_S` by this machine's clock, and
at once when the holder's process on this host is gone. A holder that lost its lease must not commit.
"""

import contextlib
import os
import socket
import threading
import time
import uuid

import msgspec

from pipelines.dsl.errors import LeaseLostError
from pipelines.dsl.files import Files

STALE_S = 60.0
"""Seconds without a heartbeat after which a lease may be taken over."""

BEAT_S = 10.0
"""Seconds between heartbeats."""


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lease: a random token, host, process id with its start time, and times in seconds since the epoch."""

    token: str
    host: str
    pid: int
    born: str
    since: float
    beat: float

    def stale(self, now: float) -> bool:
        """Tell whether it may be taken over."""
        if self.host == socket.gethostname() and process_birth(self.pid) != self.born:
            return True
        return now - self.beat > STALE_S

    def describe(self, now: float) -> str:
        """Say who and for how long."""
        return f"process {self.pid} on {self.host}, for {now - self.since:.0f} s"


class Lease:
    """A lease that this process tries to hold. Use [`acquire`][pipelines.dsl.lease.Lease.acquire], then
    [`keep`][pipelines.dsl.lease.Lease.keep]."""

    def __init__(self, files: Files, path: str) -> None:
        """Name the lease file; nothing is written yet."""
        self.files = files
        self.path = path
        self.token = uuid.uuid4().hex
        self.since = time.time()
        self.lost = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> Holder | None:
        """Try once; return None when the lease is ours now, else who holds it."""
        if self.files.create(self.path, self._record()):
            return None
        holder = self._read() or Holder("", "unknown", 0, "", time.time(), time.time())
        return self._take_over(holder) if holder.token and holder.stale(time.time()) else holder

    def _take_over(self, old: Holder) -> Holder | None:
        """Replace a stale lease. Of several who try, one makes the marker named after the old token, looks again, and
        goes on."""
        marker = f"{self.path}.{old.token}.over"
        if not self.files.create(marker, str(time.time()).encode()):
            self._drop_abandoned(marker)
            return old
        try:
            current = self._read()
            if current is not None and current.token != old.token:
                return current
            self.files.write(self.path, self._record())
            return None
        finally:
            self.files.delete(marker)

    def _drop_abandoned(self, marker: str) -> None:
        """Whoever made the marker may have been killed before deleting it."""
        written = self.files.read(marker)
        if written is not None and time.time() - float(written or 0) > STALE_S:
            self.files.delete(marker)

    def keep(self) -> None:
        """Renew from a thread until [`release`][pipelines.dsl.lease.Lease.release]."""
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Stop renewing and give the lease back if it is still ours; may be called twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError):
            holder = self._read()
            if holder is not None and holder.token == self.token:
                self.files.delete(self.path)

    def confirm(self) -> None:
        """Make sure that the lease is still ours.

        Raises:
            LeaseLostError: another driver has taken over.
        """
        holder = self._read()
        if self.lost.is_set() or holder is None or holder.token != self.token:
            who = holder.describe(time.time()) if holder else "nobody now"
            raise LeaseLostError(
                f"the lease {self.files.join(self.path)} went to another driver ({who}) while this one was stalled; "
                "its result counts, so run the same command again"
            )

    def _renew(self) -> None:
        while not self._stop.wait(BEAT_S):
            with contextlib.suppress(OSError):
                holder = self._read()
                if holder is None or holder.token != self.token:
                    self.lost.set()
                    return
                self.files.write(self.path, self._record())

    def _record(self) -> bytes:
        pid = os.getpid()
        holder = Holder(self.token, socket.gethostname(), pid, process_birth(pid), self.since, time.time())
        return msgspec.json.encode(holder)

    def _read(self) -> Holder | None:
        data = self.files.read(self.path)
        try:
            return None if data is None else msgspec.json.decode(data, type=Holder)
        except msgspec.DecodeError:
            return Holder("unreadable", "unknown", 0, "", 0.0, 0.0)


def process_birth(pid: int) -> str:
    """Return what tells a process from a later one with the same id (its start in clock ticks); empty when it is
    gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return _alive(pid)


def _alive(pid: int) -> str:
    """Without /proc: only whether the process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "alive"
    return "alive"
