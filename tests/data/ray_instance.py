"""A small Ray of a test module's own."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def small_ray(cpus: int = 2) -> Iterator[None]:
    """Start Ray with a short temporary folder (socket names must stay below 107 bytes) and end it afterwards."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    before = dict(os.environ)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=folder,
        object_store_memory=300 << 20,
    )
    try:
        yield
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def by_value(module: str) -> None:
    """Let Ray's workers have the classes of a test module, which they cannot import."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[module])
