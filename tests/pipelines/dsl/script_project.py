"""A small project on disk, run as a script the way a user runs `pipelines/reca.py`."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

SCRIPT = '''"""A script with a pipeline in it."""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.dsl import Artifact, Resources, StageContext, main, pipeline, stage


@dataclass(frozen=True)
class Data:
    count: int = 3
    name: str = "x"


@dataclass(frozen=True)
class Recipe:
    data: Data = field(default_factory=Data)
    factor: float = 2.0


@dataclass(frozen=True)
class Context:
    workers: int = 1
    log: str = ""
    slow: float = 0.0


@dataclass(frozen=True)
class Number(Artifact):
    value: float


def scale(value: float, factor: float) -> float:
    return value * factor


@stage(resources=Resources(cpus=0.5))
def first(ctx: StageContext, data: Data) -> Number:
    note(ctx, "first")
    work = Path(ctx.work_uri)
    work.mkdir(parents=True, exist_ok=True)
    for step in range(data.count):
        if not (work / str(step)).exists():
            note(ctx, f"step {step}")
            (work / str(step)).touch()
        ctx.progress("step", number=step)
        if ctx.execution.slow and step == 1:
            time.sleep(ctx.execution.slow)
    (ctx.output / "a.txt").write_text(data.name * data.count)
    return Number.of(value=float(data.count))


@stage(resources=Resources(cpus=0), claims=lambda execution: Resources(cpus=execution.workers * 0.5))
def second(ctx: StageContext, number: Number, factor: float) -> Number:
    note(ctx, "second")
    return Number.of(value=scale(number.value, factor))


def note(ctx: StageContext, line: str) -> None:
    with open(ctx.execution.log, "a") as file:
        file.write(line + "\\n")


@pipeline
def script(recipe: Recipe) -> Number:
    """Multiply a number."""
    return second(first(recipe.data), recipe.factor)


def small() -> Recipe:
    """Three steps; seconds on one core."""
    return Recipe()


def large() -> Recipe:
    """Many steps."""
    return Recipe(data=Data(count=9))


if __name__ == "__main__":
    context = Context(log=str(Path("log.txt").resolve()))
    code = main(script, {"small": small, "large": large}, "small", execution=context)
    if os.environ.get("TELL_MODULES"):
        heavy = {"ray", "torch", "fsspec", "numpy"}
        print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules} & heavy))
    sys.exit(code)
'''


@dataclass(frozen=True)
class Project:
    """The script's folder, and the environment that it is run in."""

    folder: Path
    environment: dict[str, str]

    @property
    def script(self) -> Path:
        return self.folder / "script.py"

    def start(self, *words: str) -> subprocess.Popen[str]:
        # A test run in the background of a shell ignores SIGINT, and what it starts would too.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return self._started(*words)
        finally:
            signal.signal(signal.SIGINT, before)

    def _started(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.script), *words],
            cwd=self.folder,
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, code: int = 0) -> str:
        """Run to the end; return what was printed."""
        process = self.start(*words)
        out, errors = process.communicate(timeout=240)
        assert process.returncode == code, out + errors
        return out + errors

    def log(self) -> list[str]:
        """What stage bodies noted since the last call."""
        file = self.folder / "log.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def edit(self, old: str, new: str) -> None:
        text = self.script.read_text()
        assert old in text
        self.script.write_text(text.replace(old, new, 1))


def write_project(folder: Path, **environment: str) -> Project:
    project = Project(folder, {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment})
    project.script.write_text(SCRIPT)
    return project
