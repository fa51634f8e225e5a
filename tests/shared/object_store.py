"""An S3 server of a test's own, on this machine and a free port."""

import contextlib
import os
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def s3_bucket() -> Iterator[str]:
    """URI of a new bucket; the environment says how to reach it, here and in processes started later."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
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
    # fsspec keeps a file system per arguments, and the address of this server is not among them.
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    try:
        yield f"s3://{name}"
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()
        for variable, value in before.items():
            os.environ.pop(variable)
            if value is not None:
                os.environ[variable] = value
