import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from reca.config import ExecutionConfig, TrainingConfig
from reca.training.job import TrainingJob, check_config, job_digest


def job(folder: Path) -> TrainingJob:
    for name in ("base", "images", "instructions"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "manifest.json").write_text(name)
    return TrainingJob(
        "showo", f"{folder}/base", f"{folder}/work", f"{folder}/out", f"{folder}/images", f"{folder}/instructions"
    )


def test_digest_covers_what_decides_the_result_and_nothing_else(tmp_path: Path) -> None:
    first = job(tmp_path)
    digest = job_digest(first)
    assert digest == job_digest(
        replace(first, execution=ExecutionConfig(workers=1), output="/other", stall_seconds=1.0)
    )
    assert digest != job_digest(replace(first, training=TrainingConfig(seed=1)))
    assert digest != job_digest(replace(first, family="harmon"))
    (tmp_path / "images" / "manifest.json").write_text("others")
    assert digest != job_digest(first)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: missing or empty"):
        job_digest(replace(job(tmp_path), checkpoint=f"{tmp_path}/nowhere"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"updates": 0}, r"training.updates is 0; it must lie in \[1, inf\)"),
        ({"batch_size": 0}, "training.batch_size"),
        ({"checkpoint_every": 0}, "training.checkpoint_every"),
        ({"learning_rate": float("nan")}, "training.learning_rate"),
        ({"grad_clip": float("nan")}, "training.grad_clip"),
        ({"ema_decay": 1.0}, "training.ema_decay"),
        ({"lambda_recon": 0.0, "lambda_i2t": 0.0}, "every lambda is 0"),
    ],
)
def test_bad_settings_are_refused_by_name(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_config(replace(TrainingConfig(), **change))


def test_importing_the_room_loads_neither_torch_nor_ray() -> None:
    code = "import sys, reca.training, reca.objectives; print({'torch', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
