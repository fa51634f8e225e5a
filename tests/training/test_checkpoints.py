import errno
import json
import uuid
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from training_toy import ToyFeed, ToyModel

from reca.config import TrainingConfig
from reca.training.checkpoints import LeaseLostError, WorkFolder, resume, write_checkpoint, write_failure
from reca.training.group import Group
from reca.training.loop import run_updates
from reca.training.state import TrainingState

CONFIG = TrainingConfig(updates=8, batch_size=4, checkpoint_every=2, precision="float32", ema_decay=0.5)


def fresh(seed: int = 1) -> TrainingState:
    return TrainingState.fresh(ToyModel.seeded(seed), CONFIG)


def fill(work: WorkFolder, local: Path) -> TrainingState:
    """Checkpoints after updates 2, 4, 6 and the final one."""
    state = fresh()

    def save(state: TrainingState, final: bool = False) -> None:
        folder = local / f"{work.attempt}-{state.update}"
        folder.mkdir(parents=True)
        write_checkpoint(folder, state, work.job, 1, 1, final)
        work.upload(folder, f"u{state.update:08d}")

    run_updates(state, CONFIG, ToyFeed(CONFIG, Group()), Group(), lambda _: None, save, lambda _: "")
    save(state, final=True)
    return state


@pytest.fixture(params=["local", "memory", "s3"])
def work(request: pytest.FixtureRequest, tmp_path: Path) -> WorkFolder:
    if request.param == "local":
        uri = str(tmp_path / "work")
    else:
        root = "memory:/" if request.param == "memory" else request.getfixturevalue("s3")
        uri = f"{root}/runs-{uuid.uuid4().hex}/work"
    folder = WorkFolder(uri, "first", "job")
    folder.take_lease()
    return folder


def file_of(work: WorkFolder, update: int, name: str) -> str:
    return f"{work.attempts}/first/u{update:08d}/{name}"


def test_the_newest_is_taken_and_holds_everything(work: WorkFolder, tmp_path: Path) -> None:
    done = fill(work, tmp_path / "local")
    state = fresh(9)
    assert resume(state, work)
    assert state.update == 8
    assert [r.outcome() for r in state.history] == [r.outcome() for r in done.history]
    ours, theirs = state.tensors(), done.tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    folder, manifest = work.candidates()[0]
    assert manifest.final
    assert work.fetch(folder, manifest, tmp_path / "final")
    published = ToyModel.load(tmp_path / "final" / "model")
    assert torch.equal(published.head.weight, done.parameters["head.weight"])


@pytest.mark.parametrize("damage", ["no manifest", "half a manifest", "cut", "altered", "missing"])
def test_a_damaged_checkpoint_is_passed_over(work: WorkFolder, tmp_path: Path, damage: str) -> None:
    fill(work, tmp_path / "local")
    manifest, tensors = file_of(work, 8, "manifest.json"), file_of(work, 8, "state.safetensors")
    content = work.fs.cat_file(tensors)
    if damage == "no manifest":
        work.fs.rm(manifest)
    elif damage == "half a manifest":
        work.fs.pipe_file(manifest, work.fs.cat_file(manifest)[:40])
    elif damage == "cut":
        work.fs.pipe_file(tensors, content[:-1])
    elif damage == "altered":
        work.fs.pipe_file(tensors, content[:-1] + bytes([content[-1] ^ 1]))
    else:
        work.fs.rm(tensors)
    state = fresh()
    assert resume(state, work)
    assert state.update == 6


def test_what_another_process_wrote_is_seen(work: WorkFolder, tmp_path: Path) -> None:
    """A driver lists the folder before the workers write to it; object stores' file systems remember listings."""
    fill(work, tmp_path / "local")
    assert work.candidates()[0][1].update == 8
    folder = tmp_path / "later"
    folder.mkdir()
    state = fresh()
    state.update = 9
    write_checkpoint(folder, state, work.job, 1, 1, final=True)
    other_process = fsspec.url_to_fs(work.uri, skip_instance_cache=True)[0]
    place = f"{work.attempts}/{work.attempt}/u00000009"
    other_process.makedirs(f"{place}/model", exist_ok=True)
    for name in sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()):
        other_process.put_file(str(folder / name), f"{place}/{name}")
    assert work.candidates()[0][1].update == 9


def test_checkpoints_of_another_job_are_not_taken(work: WorkFolder, tmp_path: Path) -> None:
    fill(work, tmp_path / "local")
    state = fresh()
    assert not resume(state, replace(work, job="other"))
    assert state.update == 0


def test_an_orphan_cannot_write_once_another_attempt_has_the_lease(work: WorkFolder, tmp_path: Path) -> None:
    second = replace(work, attempt="second")
    second.take_lease()
    with pytest.raises(LeaseLostError, match="attempt second has taken over; attempt first stops"):
        fill(work, tmp_path / "local")
    assert second.candidates() == []


def test_old_attempts_go_but_the_one_that_is_resumed(work: WorkFolder, tmp_path: Path) -> None:
    fill(work, tmp_path / "local")
    second, third = replace(work, attempt="second"), replace(work, attempt="third")
    second.take_lease()
    fill(second, tmp_path / "local")
    third.take_lease()
    kept = third.candidates()[0][0]
    third.forget_other_attempts(kept)
    left = {str(path).rstrip("/").rpartition("/")[2] for path in work.fs.ls(work.attempts, detail=False)}
    assert left == {kept.split("/")[-2]}


def test_a_full_disk_is_told_with_the_mend_and_passing_faults_are_left_to_retries() -> None:
    told = write_failure(OSError(errno.ENOSPC, "No space left on device", "/x/state.safetensors"), "s3://runs/a")
    assert told is not None
    assert "s3://runs/a" in str(told)
    assert "No space left on device" in str(told)
    assert "Free space" in str(told)
    assert write_failure(ConnectionResetError(errno.ECONNRESET, "reset"), "s3://runs/a") is None


def test_a_manifest_lists_every_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, fresh(), "job", 2, 1, final=True)
    listed = set(json.loads((tmp_path / "manifest.json").read_text())["files"])
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found - listed == {"manifest.json"}
    assert {"state.safetensors", "history.jsonl", "model/model.safetensors", "ema.safetensors"} <= listed
