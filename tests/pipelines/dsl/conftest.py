"""What several of these test files need: a cache of their own, and an S3 bucket served on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from object_store import s3_bucket


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that one test parsed or downloaded is seen by another."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("RECA_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_bucket() as uri:
        yield uri
