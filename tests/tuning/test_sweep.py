"""The sweep command: bad calls, its folder, and a whole sweep on the smallest model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.dsl import Store, make_plan, planner, settings
from pipelines.reca import reca
from pipelines.recipes import RECIPES
from tuning.records import SweepFolder
from tuning.sweep import main, parse

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "smok"], "no recipe 'smok'; did you mean 'smoke'?"),
        (["--recipe", "smoke", "--set", "training.learning_rat=1"], "did you mean 'training.learning_rate'?"),
        (["--recipe", "smoke", "--set", "training.learning_rate=fast"], "training.learning_rate wants float"),
        (["--recipe", "smoke", "--trials", "0"], "--trials 0: give a number of at least 1"),
        (["--recipe", "smoke", "--concurrent", "0"], "--concurrent 0: give a number of at least 1"),
        (["--recipe", "smoke", "--context", "worker=2"], "did you mean 'workers'?"),
        (["--recipe", "smoke", "--set", "training.arm=sft"], "sweep with training.arm=reca"),
    ],
)
def test_wrong_calls_name_the_mend(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_help_has_examples_and_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "python tuning/sweep.py run --recipe smoke --trials 4" in out
    assert all(name in out for name in RECIPES)


@pytest.mark.parametrize("setting", ["model.checkpoint", "data.source"])
def test_missing_input_is_named_before_anything_starts(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--recipe", "smoke", "--store", str(tmp_path / "store"), "--set", f"{setting}=/no/such/folder"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "/no/such/folder is missing or empty" in said
    assert said.endswith(f"; check {setting}, or the credentials\n")


def test_store_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--recipe", "smoke", "--store", str(tmp_path / "file/store")]) == 1
    assert "name another --store" in capsys.readouterr().err
    assert main(["--recipe", "smoke", "--store", str(tmp_path / "file")]) == 2
    assert "file is a file; name a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", "--recipe", "smoke", "--trails", "4"])
    assert "did you mean '--trials'?" in capsys.readouterr().err


def test_more_trials_or_workers_continue_the_same_sweep(tmp_path: Path) -> None:
    def folder(*words: str) -> str:
        return parse(["--recipe", "smoke", "--store", str(tmp_path), *words]).folder.uri

    assert folder("--trials", "4") == folder("--trials", "9", "--context", "workers=1", "--concurrent", "2")
    assert folder() != folder("--set", "training.updates=30")
    assert folder() != folder("--seed", "1")


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_sweep_from_data_to_best_recipe(tmp_path: Path, short_tmp: Path, smallest_run: list[str]) -> None:
    store = tmp_path / "store"
    command = [sys.executable, str(ROOT / "tuning/sweep.py"), "run", "--recipe", "smoke", "--trials", "2"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [*command, "--store", str(store), "--context", "workers=1", *smallest_run],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**clean, "RAY_TMPDIR": str(short_tmp), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    (folder,) = (store / "sweeps").iterdir()
    records = SweepFolder(str(folder)).load()
    assert [record.state for record in records] == ["done", "done"]
    start = RECIPES["smoke"]().training
    assert records[0].params == {name: getattr(start, name) for name in ("lambda_recon", "lambda_i2t", "learning_rate")}
    made = {path.parent.name: len(list(path.parent.iterdir())) for path in (store / "manifests").glob("*/*.json")}
    assert (made["encode"], made["train"], made["validate"]) == (2, 2, 2), "data and features once, training per trial"

    best = folder / "best.json"
    assert json.loads(best.read_text())["training"]["updates"] == 1
    assert f"next: python pipelines/reca.py run --recipe {best}" in done.stdout
    graph = reca.build(settings.load_recipe(str(best), RECIPES, "tiny_showo"))
    waiting = [node.name for node in make_plan(graph, planner(graph, Store(str(store)), "rerun")).to_run()]
    assert waiting == ["score after", "report"], "the main job reuses everything up to the trained model"
