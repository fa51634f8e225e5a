"""A killed evaluation on a store in S3 continues, and no question that was answered is asked a second time."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from loopback_judge import loopback_judge
from object_store import s3_bucket
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PROMPTS, ANSWERED, UNDER_WAY = 12, 5, 2
REPLY = "Consistency: 2\nRealism: 1\nAesthetic Quality: 0"

pytestmark = pytest.mark.ray


@pytest.fixture
def store() -> Iterator[str]:
    with s3_bucket() as uri:
        yield f"{uri}/store"


@pytest.fixture
def words(tmp_path: Path, store: str) -> list[str]:
    """The command line without the endpoint's address: WISE on pictures made elsewhere."""
    rows = [
        {"prompt_id": n, "Prompt": f"thing {n}", "Explanation": f"it shows thing {n}", "Category": "x"}
        for n in range(1, PROMPTS + 1)
    ]
    (tmp_path / "wise.json").write_text(json.dumps([{**row, "Subcategory": "y"} for row in rows]))
    (tmp_path / "judge.txt").write_text("Is this <prompt>? Remember: <explanation>")
    (tmp_path / "made").mkdir()
    for row in rows:
        Image.new("RGB", (8, 8), (row["prompt_id"], 0, 0)).save(tmp_path / f"made/{row['prompt_id']}.png")
    settings = {
        "wise.prompts": tmp_path / "wise.json",
        "wise.judge_prompt": tmp_path / "judge.txt",
        "judge.model": "loopback",
        "bootstrap": 20,
    }
    script = ["run", "--store", store, "--images", str(tmp_path / "made"), "--benchmarks", "wise"]
    context = ["--context", f"concurrency={UNDER_WAY}", "--context", "key_variable="]
    return [str(ROOT / "pipelines/evaluate.py"), *script, *context, *(f"--set={n}={v}" for n, v in settings.items())]


@pytest.mark.timeout(600)
def test_after_kill_9_of_the_whole_evaluation_nothing_answered_is_asked_again(
    words: list[str], store: str, tmp_path: Path, short_tmp: Path
) -> None:
    stuck, answered = threading.Event(), Counter[str]()

    def question(body: dict[str, Any]) -> str:
        return body["messages"][-1]["content"][0]["text"]

    def first(body: dict[str, Any]) -> str | None:
        if sum(answered.values()) < ANSWERED:
            answered[question(body)] += 1
            return REPLY
        if len(judge.asked) == ANSWERED + UNDER_WAY:
            stuck.set()
        return None

    def later(body: dict[str, Any]) -> str:
        answered[question(body)] += 1
        return REPLY

    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    places = {"RAY_TMPDIR": str(short_tmp), "RECA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    with loopback_judge(first) as judge:
        command = [sys.executable, *words, "--context", f"base_url={judge.url}"]

        def start(name: str) -> subprocess.Popen[str]:
            log = (tmp_path / name).open("w")
            return subprocess.Popen(
                command, stdout=log, stderr=log, text=True, cwd=tmp_path, env={**clean, **places}, process_group=0
            )

        killed = start("killed.log")
        try:
            assert stuck.wait(200), (tmp_path / "killed.log").read_text()
        finally:
            # The driver and, as when a machine goes down, the workers it started.
            os.killpg(killed.pid, signal.SIGKILL)
            killed.wait()
        judge.behaviours = [later]
        for name in ("second.log", "third.log"):
            assert start(name).wait(250) == 0, (tmp_path / name).read_text()
        assert len(judge.asked) == PROMPTS + UNDER_WAY
    assert sorted(answered.values()) == [1] * PROMPTS
    assert "0 of 3 stages ran" in (tmp_path / "third.log").read_text()
    files, root = fsspec.url_to_fs(store, skip_instance_cache=True)
    (summary,) = files.glob(f"{root}/objects/report/*/*/summary.json")
    (side,) = json.load(io.BytesIO(files.cat_file(summary)))["benchmarks"]["wise"]["sides"].values()
    assert (side["pictures"], side["unscored"], side["judge"]) == (PROMPTS, 0, "loopback")
    assert side["strict"]["WiScore"]["CULTURE"]["value"] == pytest.approx((0.7 * 2 + 0.2) / 2)
