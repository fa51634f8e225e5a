"""The command line, as far as it goes without starting a stage."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from script_project import ROOT, Project, write_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return write_project(tmp_path)


def test_plan_says_what_and_why_and_loads_little(project: Project) -> None:
    project = Project(project.folder, project.environment | {"TELL_MODULES": "1"})
    out = project.run("plan", "--set", "data.count=5", "--context", "workers=2").splitlines()
    assert out == [
        f"pipeline script, recipe small, store {project.folder}/store",
        "  data.count = 5 (--set; recipe small says 3)",
        "  workers = 2 (--context; the default says 1)",
        "run   first   no artifact of this stage yet",
        "run   second  no artifact of this stage yet",
        "2 of 2 stages would run",
        "loaded:",
    ]
    assert not (project.folder / "store").exists()


def test_graph(project: Project) -> None:
    out = project.run("graph")
    assert "second  <- first" in out
    assert 'n1["second"]' in out


def test_help_fits_a_screen_and_shows_examples_and_recipes(project: Project) -> None:
    out = project.run("--help")
    example = re.search(r"script\.py plan --set (\S+)", out)
    assert example is not None
    assert "2 of 2 stages would run" in project.run("plan", "--set", example[1]), "examples can be typed as they stand"
    assert "small  Three steps; seconds on one core." in out
    assert len(out.splitlines()) <= 45


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("plan", "--set", "data.cuont=5"), "did you mean 'data.count'?"),
        (("plan", "--set", "data.count=x"), "data.count wants int, and 'x' is none"),
        (("plan", "--recipe", "smal"), "did you mean 'small'?"),
        (("plan", "--context", "worker=2"), "--context: there is no field 'worker'; did you mean 'workers'?"),
        (("show",), "there is no run in the store"),
        (("run", "large"), "run large: write run --recipe large"),
        (("plan", "nothing"), "plan nothing: only show takes a name"),
        (("plan", "--set", "workers=2"), "workers says how a job runs; write --context workers=VALUE"),
        (("plan", "--recipe", "recipe.yaml"), "a file that ends in .json or .toml"),
        (("plan", "--sett", "data.count=5"), "unrecognized arguments: --sett data.count=5; did you mean '--set'?"),
        (("plan", "--store", "script.py"), "script.py is a file; name a folder"),
        (("verify", "--store", "script.py"), "script.py is a file; name a folder"),
    ],
)
def test_wrong_calls_exit_2_with_the_mend(project: Project, words: tuple[str, ...], says: str) -> None:
    out = project.run(*words, code=2)
    assert says in out
    assert "Traceback" not in out


def test_an_unknown_verb_is_refused(project: Project) -> None:
    assert "invalid choice: 'plna'" in project.run("plna", code=2)


def test_verify_of_an_empty_store(project: Project) -> None:
    assert "0 artifacts" in (out := project.run("verify"))
    assert "intact" not in out


def test_a_store_that_cannot_be_written_is_refused_before_ray_starts(project: Project) -> None:
    (project.folder / "file").write_text("")
    project = Project(project.folder, project.environment | {"TELL_MODULES": "1"})
    out = project.run("run", "--store", "file/store", code=1)
    assert re.search(r"error: cannot write the store .*/file/store: .*--store URI", out)
    assert out.rstrip().splitlines()[-1].startswith("loaded:") or "loaded:\n" in out
    assert "ray" not in re.findall(r"loaded:(.*)", out)[0]


def test_importing_the_words_loads_neither_ray_nor_torch() -> None:
    code = "import sys, pipelines.dsl; print({'ray', 'torch', 'fsspec', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
