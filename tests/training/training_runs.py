"""Helpers of the tests that start Ray: a small job on disk, and a driver that can be killed."""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import ray
import torch
from safetensors.torch import load_file
from training_toy import WIDTH, ToyModel, toy_row

from reca.config import ExecutionConfig, TrainingConfig
from reca.data.encoded import EncodedWriter
from reca.training import TrainingJob, train

import psutil  # isort: skip  # Ray brings it: it can be imported only after Ray

CONFIG = TrainingConfig(
    updates=400, batch_size=8, learning_rate=3e-3, warmup_updates=10, checkpoint_every=40, seed=5, precision="float32"
)


def write_inputs(folder: Path, rows: int = 50) -> None:
    """Base weights and two encoded data sets below `folder`."""
    for name in ("images", "instructions"):
        (folder / name).mkdir(parents=True)
        samples = [toy_row(name, index) for index in range(rows)]
        features = np.stack([sample.tensors["features"] for sample in samples]).astype(np.float16)
        assert features.shape == (rows, WIDTH)
        with EncodedWriter(folder / name) as writer:
            writer.add([s.key for s in samples], [s.caption for s in samples], {"features": features})
            writer.close({})
    ToyModel.seeded(1, dropout=0.1).save(folder / "base")


def toy_job(inputs: Path, place: Path, training: TrainingConfig = CONFIG, read_ahead: bool = False) -> TrainingJob:
    """A job of two workers whose work and output folders lie below `place`."""
    (place / "out").mkdir(parents=True, exist_ok=True)
    return TrainingJob(
        family="training_toy:ToyModel",
        checkpoint=str(inputs / "base"),
        work_uri=str(place / "work"),
        output=str(place / "out"),
        images=str(inputs / "images"),
        instructions=str(inputs / "instructions"),
        training=training,
        execution=ExecutionConfig(workers=2, read_ahead=read_ahead),
    )


def train_workers() -> list[psutil.Process]:
    """Ray's processes below this one that hold a train worker."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if "RayTrainWorker" in process.name() + "".join(process.cmdline())]


def weights(place: Path) -> Mapping[str, torch.Tensor]:
    """Published weights of a finished job."""
    return load_file(place / "out" / "model" / "model.safetensors")


def start_ray(address: str = "local") -> str:
    """Start Ray with two CPUs in a folder of its own, or attach; the toy family is importable on its workers."""
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    own = {"num_cpus": 2, "include_dashboard": False, "_temp_dir": tempfile.mkdtemp(prefix="reca-ray-", dir="/tmp")}
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
        **(own if address == "local" else {}),
    )
    return ray.get_runtime_context().gcs_address


def main(inputs: str, place: str, address: str) -> None:
    """A driver of its own: attach to Ray, train, print progress."""
    start_ray(address)
    train(toy_job(Path(inputs), Path(place)), lambda text, **_: print(text, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
