"""A fully cached `run` of the main job against starting Python with the libraries that any typed command line needs.

The job runs once to the end in a store of its own (recipe `smoke`); what is timed is the same command again, as a
whole process.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

ROOT = Path(__file__).resolve().parents[1]
BARE = [sys.executable, "-c", "import msgspec, fsspec, argparse"]


def wall(command: list[str]) -> float:
    """Seconds of one process from start to end.

    Raises:
        RuntimeError: with its output, when it fails.
    """
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return seconds


def main() -> None:
    """Time both commands in turn, and write the table."""
    where = harness.machine()
    with tempfile.TemporaryDirectory(dir="/tmp") as store:
        job = [sys.executable, "pipelines/reca.py", "run", "--recipe", "smoke", "--store", store]
        first = wall(job)
        cases = {"cached run": lambda: wall(job), "bare start": lambda: wall(BARE)}
        comparison = harness.interleave(cases, 9, "s")
    harness.write_results(
        "cached_run",
        "A fully cached run",
        comparison,
        [("cached run", "bare start", "cached run at most 0.5 s")],
        where,
        f"`pipelines/reca.py run --recipe smoke` a second time: 10 stages, all reused. Bare start: Python importing "
        f"msgspec, fsspec and argparse. The first run, which made everything, took {first:.0f} s on this machine.",
    )


if __name__ == "__main__":
    main()
