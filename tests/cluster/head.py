"""A Ray head of a test's own: free ports, its own folder, ended by process group and never by name."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
START_SECONDS = 120.0


@dataclass(frozen=True)
class Head:
    """A running head: addresses, and the environment its clients need."""

    address: str
    dashboard: str
    environment: dict[str, str]

    def submit(self, working_dir: Path, *entrypoint: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit` in `working_dir`, with its output."""
        command = [BIN / "ray", "job", "submit", "--address", self.dashboard, "--working-dir", ".", "--", *entrypoint]
        return subprocess.run(
            command, cwd=working_dir, env=self.environment, capture_output=True, text=True, check=False
        )


@contextlib.contextmanager
def running_head(cpus: int = 2) -> Iterator[Head]:
    """Start a head as a user without any Ray settings would, on ports that are free."""
    # Short: Ray's socket names must stay below 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    gcs, client, dashboard, agent, agent_grpc = _free_ports(5)
    options = {
        "--port": gcs,
        "--ray-client-server-port": client,
        "--dashboard-port": dashboard,
        "--dashboard-agent-listen-port": agent,
        "--dashboard-agent-grpc-port": agent_grpc,
        "--min-worker-port": 0,
        "--max-worker-port": 0,
        "--num-cpus": cpus,
        "--temp-dir": folder / "ray",
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{BIN}{os.pathsep}{clean['PATH']}"
    environment = {**clean, "PATH": path, "HOME": str(folder), "OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(folder)}
    command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    command += [str(word) for pair in options.items() for word in pair]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_for(f"http://127.0.0.1:{dashboard}/api/version", process, folder / "head.log")
        yield Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", environment)
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.2)
    raise AssertionError(f"the head did not start:\n{log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the head and what it started: all in its process group, except workers, which end with their raylet."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=15)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
