"""What several of these test files need: a cache of their own, and an S3 bucket served on this machine."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that one test parsed or downloaded is seen by another."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("RECA_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """URI of a bucket; the environment says how to reach it, here and in Ray started later."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    wanted = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    yield f"s3://{name}"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()
    for variable, value in before.items():
        os.environ.pop(variable)
        if value is not None:
            os.environ[variable] = value
