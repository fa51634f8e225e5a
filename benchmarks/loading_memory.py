"""Host memory that reading a checkpoint takes beside the model itself, in units of its largest shard.

Each figure is one fresh process. The tensors to be filled are there, and their pages touched, before the clock starts;
counted is the growth of the whole resident set (VmHWM), so pages of the mapped file count too, though the system may
drop those at any time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from reca.models.checkpoint import find_weights, load_strict, read_tensors

LAYOUTS = ("sharded", "single", "pickle")


def write_checkpoint(folder: Path, layout: str, shards: int, mib: int) -> int:
    """Write bfloat16 zeros: each shard one tensor of three quarters of it and many small ones.

    Args:
        folder: an empty folder.
        layout: one of `LAYOUTS`.
        shards: number of shards; the other layouts hold all their tensors in one file.
        mib: size of a shard in MiB.

    Returns:
        Bytes of the largest file.
    """
    rows = mib * 2**20 // 2048
    parts: list[dict[str, Tensor]] = []
    for shard in range(shards):
        large = {f"{shard}.large": torch.zeros(rows * 3 // 4, 1024, dtype=torch.bfloat16)}
        small = {f"{shard}.small{n}": torch.zeros(rows // 64, 1024, dtype=torch.bfloat16) for n in range(16)}
        parts.append({**large, **small})
    whole = {name: value for part in parts for name, value in part.items()}
    if layout == "pickle":
        torch.save(whole, folder / "model.pth")
    elif layout == "single":
        save_file(whole, folder / "model.safetensors")
    else:
        files = {f"model-{number}.safetensors": part for number, part in enumerate(parts)}
        for name, part in files.items():
            save_file(part, folder / name)
        index = {"weight_map": {name: file for file, part in files.items() for name in part}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return max(path.stat().st_size for path in folder.iterdir())


def loading_bytes(folder: Path) -> int:
    """Growth of the peak resident set, in bytes, while float32 tensors are filled from a checkpoint.

    Call in a fresh process.
    """
    torch.set_num_threads(1)
    path = find_weights(folder)
    wanted = {name: torch.ones(value.shape) for name, value in read_tensors(path)}
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    load_strict(wanted, path)
    return _status("VmHWM") - before


def measure(layout: str, shards: int, mib: int) -> float:
    """Peak beside the model over the size of the largest file; arguments as of `write_checkpoint`.

    Raises:
        CalledProcessError: the process that reads failed.
    """
    with tempfile.TemporaryDirectory() as place:
        largest = write_checkpoint(Path(place), layout, shards, mib)
        command = [sys.executable, __file__, "--child", place]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return int(done.stdout) / largest


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    """Read checkpoints in fresh processes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", type=Path, metavar="FOLDER")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--mib", type=int, default=128, help="size of a shard")
    arguments = parser.parse_args()
    if arguments.child:
        print(loading_bytes(arguments.child))
        return
    for layout in LAYOUTS:
        print(f"{layout}: {measure(layout, arguments.shards, arguments.mib):.2f} x the largest shard")


if __name__ == "__main__":
    main()
