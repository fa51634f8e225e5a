"""Progress lines from stage bodies, anywhere in the cluster, to the driver's terminal.

Lines travel through the key-value table of Ray's control service, last value wins: no extra process (an actor would
cost about 0.1 GB and a second to start), and a body may report as often as it likes.
"""

import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from pipelines.dsl.text import seconds

NAMESPACE = b"stage-progress"

SEND_S = 0.3
"""Least seconds between two lines sent by one process."""

PLAIN_S = 5.0
"""Least seconds between two printed lines of one stage where the output is not a terminal."""


@dataclass
class Reporter:
    """Sends progress lines of one stage; travels with the stage's context.

    Attributes:
        topic: key of the line.
    """

    topic: str
    _last: float = field(default=0.0, compare=False)
    _held: str = field(default="", compare=False)

    def __call__(self, line: str) -> None:
        """Send a line, or hold it back when one was sent just now."""
        now = time.monotonic()
        self._held = line
        if now - self._last >= SEND_S:
            self._last = now
            self.flush()

    def flush(self) -> None:
        """Send the line held back, so that the last word of a stage is never lost."""
        if self._held:
            _table()._internal_kv_put(self.topic.encode(), self._held.encode(), overwrite=True, namespace=NAMESPACE)
            self._held = ""


def read_line(topic: str) -> str:
    """Return the last line under a topic, empty if there is none (driver side)."""
    found = _table()._internal_kv_get(topic.encode(), namespace=NAMESPACE)
    return found.decode() if found else ""


def forget(topic: str) -> None:
    """Delete a topic (driver side)."""
    _table()._internal_kv_del(topic.encode(), namespace=NAMESPACE)


def _table() -> Any:
    """Ray offers no public name for its key-value table."""
    from ray.experimental import internal_kv

    return internal_kv


class Display:
    """Prints what happens: one line per event, and between them the stages' progress.

    On a terminal the progress of all running stages stands in the last lines and is redrawn; elsewhere a stage's line
    is printed when it changed, at most once in `PLAIN_S` seconds.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        """Print to `stream` (default: standard output)."""
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self._drawn = 0
        self._printed: dict[str, tuple[str, float]] = {}

    def event(self, line: str) -> None:
        """Print a line that stays."""
        self._erase()
        print(line, file=self.stream, flush=True)

    def show(self, lines: Mapping[str, tuple[str, float]]) -> None:
        """Show the last progress line of each running stage, with its seconds so far on a terminal."""
        if self.live:
            self._erase()
            width = shutil.get_terminal_size().columns - 1
            for name, (line, elapsed) in lines.items():
                print(f"  {name}: {line or 'running'} [{seconds(elapsed)}]"[:width], file=self.stream)
            self.stream.flush()
            self._drawn = len(lines)
            return
        now = time.monotonic()
        for name, (line, _) in lines.items():
            last, when = self._printed.get(name, ("", now - PLAIN_S))
            if line and line != last and now - when >= PLAIN_S:
                self._printed[name] = line, now
                print(f"  {name}: {line}", file=self.stream, flush=True)

    def settle(self, name: str, line: str) -> None:
        """Print the last progress line of a stage that ended, unless it stands there already (never on a terminal)."""
        last, _ = self._printed.pop(name, ("", 0.0))
        if line and line != last and not self.live:
            print(f"  {name}: {line}", file=self.stream, flush=True)

    def close(self) -> None:
        """Take the live lines away."""
        self._erase()

    def _erase(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}A\x1b[J", end="", file=self.stream, flush=True)
            self._drawn = 0
