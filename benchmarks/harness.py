"""Side-by-side measurement: interleaved repeats, medians, and the machine they were taken on.

Cases run in turn (a b c, a b c, ...), so a slow minute of the machine hits all of them alike. Ratios are formed within
each repeat and their median is reported, with the smallest and largest beside it.
"""

import contextlib
import gc
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""Where results are committed."""


@dataclass(frozen=True)
class Machine:
    """What the figures were taken on.

    Attributes:
        cpu: model name of the processor.
        cores: cores this process may use.
        memory_gb: total memory in GiB.
        load_before: 1-minute load average before the first run; well above 0 means others were at work.
        python: interpreter version.
        system: kernel and architecture.
        packages: versions of the packages that matter.
        commit: git commit of the repository, with `+changes` when the tree was not clean.
    """

    cpu: str
    cores: int
    memory_gb: float
    load_before: float
    python: str
    system: str
    packages: dict[str, str]
    commit: str


@dataclass(frozen=True)
class Comparison:
    """Figures of all cases, in the order they were taken.

    Attributes:
        unit: unit of every value, such as `images/s`.
        values: one value per repeat, by case.
    """

    unit: str
    values: dict[str, list[float]]

    def median(self, case: str) -> float:
        """Median over the repeats of one case."""
        return statistics.median(self.values[case])

    def ratio(self, case: str, to: str) -> tuple[float, float, float]:
        """Median, smallest and largest of case / to, formed within each repeat."""
        ratios = [a / b for a, b in zip(self.values[case], self.values[to], strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def machine(packages: Sequence[str] = ("ray", "torch", "pyarrow", "numpy", "Pillow", "simplejpeg")) -> Machine:
    """Describe this machine now.

    Args:
        packages: names on the package index; `absent` stands for one that is not installed.
    """
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        load_before=round(os.getloadavg()[0], 2),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages={name: _version(name) for name in packages},
        commit=_commit(),
    )


def interleave(cases: Mapping[str, Callable[[], float]], repeats: int, unit: str) -> Comparison:
    """Run every case once to warm up (not counted), then `repeats` times in turn.

    Args:
        cases: functions that do the work and return their own figure, by name.
        repeats: counted runs of each case.
        unit: unit of the figures.

    Returns:
        `repeats` figures of each case; one line is printed for each run.
    """
    values: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(-1, repeats):
        for name, run in cases.items():
            gc.collect()
            value = run()
            print(
                f"{'warm-up' if repeat < 0 else f'repeat {repeat + 1}/{repeats}'}  {name}: {value:.6g} {unit}",
                flush=True,
            )
            if repeat >= 0:
                values[name].append(value)
    return Comparison(unit, values)


def cpu_seconds(ignore: Set[int] = frozenset()) -> float:
    """User and system CPU time so far of this process, its living descendants and the children they reaped.

    Work per CPU-second hardly depends on what else the machine is doing, unlike work per second.

    Args:
        ignore: ids of processes left out, such as a server that idles beside the case in hand.

    Returns:
        CPU-seconds, in steps of the kernel's clock tick (usually 0.01 s).
    """
    ticks = {pid: spent for pid, spent in _ticks().items() if pid not in ignore}
    return sum(ticks.values()) / os.sysconf("SC_CLK_TCK")


def descendants() -> set[int]:
    """Ids of the living descendants of this process."""
    return set(_ticks()) - {os.getpid()}


def processes(file: str) -> dict[int, str]:
    """Text of `/proc/ID/<file>` by process, of all that live."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                found[int(entry.name)] = (entry / file).read_text()
    return found


def family(root: int, parents: Mapping[int, int]) -> set[int]:
    """Ids of a process and its descendants.

    Args:
        root: id of the process.
        parents: id of the parent by process.
    """
    members = {root}
    while grown := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= grown
    return members


def _ticks() -> dict[int, int]:
    """CPU ticks by process, of this process and its living descendants."""
    # proc(5): after the command come state and ppid; utime, stime, cutime, cstime are fields 14 to 17 of the line.
    fields = {pid: text.rpartition(")")[2].split() for pid, text in processes("stat").items()}
    members = family(os.getpid(), {pid: int(values[1]) for pid, values in fields.items()})
    return {pid: sum(map(int, fields[pid][11:15])) for pid in members if pid in fields}


def write_results(
    name: str, title: str, comparison: Comparison, ratios: Sequence[tuple[str, str, str]], where: Machine, notes: str
) -> None:
    """Write `results/<name>.json` and `.md`, and print the page.

    Args:
        name: file stem.
        title: first line of the page.
        comparison: the figures.
        ratios: (case, reference case, goal as text) lines of the ratio table.
        where: `machine()` taken before the runs.
        notes: what was run, in Markdown.
    """
    RESULTS.mkdir(exist_ok=True)
    rows = [(case, to, *comparison.ratio(case, to), goal) for case, to, goal in ratios]
    record = {
        "title": title,
        "unit": comparison.unit,
        "values": comparison.values,
        "medians": {case: comparison.median(case) for case in comparison.values},
        "ratios": [
            {"case": case, "to": to, "median": mid, "min": low, "max": high, "goal": goal}
            for case, to, mid, low, high, goal in rows
        ],
        "machine": asdict(where),
        "notes": notes,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        f"# {title}",
        "",
        notes.strip(),
        "",
        f"| case | median {comparison.unit} | all runs |",
        "| --- | --- | --- |",
    ]
    for case, values in comparison.values.items():
        lines.append(f"| {case} | {comparison.median(case):.6g} | {', '.join(f'{v:.5g}' for v in values)} |")
    lines += ["", "| ratio | median | range | goal |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {case} / {to} | {mid:.3f} | {low:.3f} to {high:.3f} | {goal} |" for case, to, mid, low, high, goal in rows
    ]
    lines += ["", f"{where.cpu}, {where.cores} cores, {where.memory_gb} GiB, load before {where.load_before}, "]
    lines[-1] += (
        f"Python {where.python}, {', '.join(f'{k} {v}' for k, v in where.packages.items())}, commit {where.commit}."
    )
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
