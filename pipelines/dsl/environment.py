"""What a stage ran on: recorded with every artifact, never part of a key."""

import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "ray", "transformers", "diffusers", "numpy", "pyarrow")


@cache
def packages() -> dict[str, str]:
    """Return the versions of the packages that results depend on, without importing them."""
    import importlib.metadata

    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def machine() -> dict[str, Any]:
    """Return Python, package versions, platform and processor of this process."""
    return {
        "python": platform.python_version(),
        "packages": packages(),
        "platform": platform.platform(),
        "cpu": _processor(),
    }


@cache
def commit(folder: Path) -> dict[str, Any]:
    """Return the git commit of a folder and whether its tree has changes; empty where there is no repository."""
    head = _git(folder, "rev-parse", "HEAD")
    if not head:
        return {}
    return {"commit": head, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return models[0] if models else platform.processor()
