"""A Ray of two logical CPUs for a test module."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray


@contextmanager
def small_cluster() -> Iterator[str]:
    """Start Ray in a folder of its own (short: socket names end at 107 bytes)."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=100 << 20,
            _temp_dir=folder,
        )
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
