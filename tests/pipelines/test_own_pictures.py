"""The whole job on somebody's own pictures, with instructions and store in an object store."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from object_store import s3_bucket
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.ray

RUN = """import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("loaded:", *sorted({"ray", "torch"} & set(sys.modules)))
    raise
"""


def picture(seed: int, kind: str) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (20 + seed, 30, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def bucket() -> Iterator[str]:
    """A bucket with questions about pictures: pairs of a `.png` and a `.txt`, and one picture without a text."""
    with s3_bucket() as uri:
        fs, root = fsspec.url_to_fs(f"{uri}/questions", skip_instance_cache=True)
        for i in range(8):
            fs.pipe_file(f"{root}/{i}.png", picture(i, "PNG"))
            fs.pipe_file(f"{root}/{i}.txt", b"What is in the picture?\na red cat\n")
        fs.pipe_file(f"{root}/lonely.png", picture(9, "PNG"))
        yield uri


@pytest.mark.timeout(900)
def test_own_pictures_and_an_object_store(
    tmp_path: Path, short_tmp: Path, bucket: str, smallest_run: list[str]
) -> None:
    folder = tmp_path / "pictures" / "holiday"
    folder.mkdir(parents=True)
    for i in range(12):
        (folder / f"{i:02d}.{('png', 'jpg')[i % 2]}").write_bytes(picture(i, ("PNG", "JPEG")[i % 2]))
    (folder / "cut.jpg").write_bytes(picture(3, "JPEG")[:-200])
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {
        "data.source": "pictures",
        "data.images": 0,
        "data.instruction_source": f"{bucket}/questions",
        "data.instructions": 0,
        "data.max_quarantined": 0.2,
    }

    def run(verb: str, *words: str, code: int = 0) -> str:
        command = [sys.executable, "-c", RUN, str(ROOT / "pipelines/reca.py"), verb, "--store", f"{bucket}/store"]
        command += ["--recipe", "smoke", "--context", "workers=1", *smallest_run]
        command += [f"--set={name}={value}" for name, value in own.items()]
        done = subprocess.run(
            [*command, *words],
            cwd=tmp_path,
            env={**clean, "RAY_TMPDIR": str(short_tmp), "RECA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{done.stdout[-6000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    assert "10 of 10 stages ran" in run("run")
    again = run("run")
    assert "0 of 10 stages ran" in again
    assert again.endswith("loaded:\n"), "a fully cached run starts neither Ray nor torch"

    fs, result = fsspec.url_to_fs(again.split("result: ")[1].split()[0], skip_instance_cache=True)
    assert b"<html" in fs.cat_file(f"{result}/report.html")
    counted = {row["name"]: row for row in json.loads(fs.cat_file(f"{result}/summary.json"))["accounting"]}
    images, instructions = counted["images"], counted["instructions"]
    assert (images["rows_in"], images["rows_out"], images["quarantined"]) == (13, 12, {"truncated": 1})
    assert (instructions["rows_in"], instructions["rows_out"], instructions["quarantined"]) == (9, 8, {"no caption": 1})
    kept_aside = [pq.read_table(fs.open(path)) for path in fs.find(f"{bucket}/store/objects") if "quarantine" in path]
    assert sorted(key for table in kept_aside for key in table.column("key").to_pylist()) == [
        "holiday/cut.jpg",
        "lonely.png",
    ]

    (folder / "00.png").write_bytes(picture(20, "PNG"))
    planned = run("plan").splitlines()
    assert any(re.match(r"run +prepare images +source\.content '\w+' -> '\w+'$", line) for line in planned)
    assert next(line for line in planned if "prepare instructions" in line).startswith("reuse")
    assert "artifacts in" in run("verify")
