from collections.abc import Iterator

import pytest
import ray
from object_store import s3_bucket
from training_runs import start_ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a Ray instance of this test module's own."""
    yield start_ray()
    ray.shutdown()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_bucket() as uri:
        yield uri
