"""Drivers as processes of their own, on one small Ray: killed, interrupted, two at once, and with edited code."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from script_project import Project, write_project
from small_cluster import small_cluster

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with small_cluster() as found:
        yield found


@pytest.fixture
def project(address: str, tmp_path: Path) -> Project:
    # As in a submitted job: attach, and upload nothing.
    return write_project(
        tmp_path,
        RAY_ADDRESS=address,
        RAY_JOB_CONFIG_JSON_ENV_VAR='{"runtime_env": {}}',
        RAY_AUTH_MODE="disabled",
        RECA_STORE="store",
        TELL_MODULES="1",
    )


def wait_for(project: Project, driver: subprocess.Popen[str], line: str) -> None:
    """Wait until a stage body has noted a line, or fail with what the driver said when it ended before."""
    deadline = time.monotonic() + 120
    log = project.folder / "log.txt"
    while not log.exists() or line not in log.read_text().splitlines():
        assert driver.poll() is None, "".join(driver.communicate())
        assert time.monotonic() < deadline, f"{line!r} never came"
        time.sleep(0.05)


def decisions(out: str) -> dict[str, str]:
    return {name: decision for decision, name in re.findall(r"^(run|reuse|check) +(\w+) ", out, re.MULTILINE)}


def test_a_script_runs_is_reused_and_follows_its_code(project: Project) -> None:
    out = project.run()
    assert "result: " in out
    assert project.log() == ["first", "step 0", "step 1", "step 2", "second"]

    out = project.run()
    assert decisions(out) == {"first": "reuse", "second": "reuse"}
    assert out.splitlines()[-1] == "loaded:", "a run that reuses everything loads neither ray nor torch"
    assert project.log() == []

    project.edit("return value * factor", "return factor * value")
    out = project.run("plan")
    assert "run   second  code changed: script.scale" in out
    out = project.run("run", "--on-code-change", "pin")
    assert decisions(out)["second"] == "reuse"
    assert "code changed: script.scale" in project.run("plan"), "pin leaves the record"
    project.run("run", "--on-code-change", "accept")
    assert decisions(project.run("plan")) == {"first": "reuse", "second": "reuse"}
    assert project.log() == []

    shown = project.run("show")
    assert "done" in shown
    assert "0.5 core-s" not in shown.split("first")[0]
    assert "2 artifacts" in project.run("verify")
    victim = next((project.folder / "store" / "objects" / "first").rglob("a.txt"))
    victim.write_text("yyy")
    assert "a.txt was altered (same size, other content)" in project.run("verify", code=1)
    assert decisions(project.run()) == {"first": "run", "second": "check"}
    assert project.log() == ["first", "step 0", "step 1", "step 2"]
    assert "all intact" in project.run("verify")


def test_a_killed_driver_leaves_nothing_broken_and_the_next_continues(project: Project) -> None:
    driver = project.start("run", "--context", "slow=60")
    wait_for(project, driver, "step 1")
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert "0 artifacts" in project.run("verify")
    assert list((project.folder / "store" / "leases").rglob("*.json")), "the lease of the dead driver is still there"
    out = project.run()
    assert "taken" not in out
    log = project.log()
    assert log == ["first", "step 0", "step 1", "first", "step 2", "second"], "finished steps are not done again"
    assert not list((project.folder / "store" / "leases").rglob("*.json"))
    assert not list((project.folder / "store" / "work" / "first").rglob("*"))


def test_an_interrupted_run_says_what_is_kept_and_the_next_continues(project: Project) -> None:
    driver = project.start("run", "--context", "slow=60")
    wait_for(project, driver, "step 1")
    driver.send_signal(signal.SIGINT)
    out, errors = driver.communicate(timeout=120)
    assert driver.returncode == 130, out + errors
    assert "run the same command again to continue" in errors
    assert "Traceback" not in errors
    assert not list((project.folder / "store" / "objects").rglob("*.txt"))
    assert "interrupted" in project.run("show")
    project.run()
    assert project.log().count("step 0") == 1


def test_changed_code_does_not_continue_old_checkpoints_unless_told(project: Project) -> None:
    driver = project.start("run", "--context", "slow=60")
    wait_for(project, driver, "step 1")
    driver.send_signal(signal.SIGTERM)
    driver.communicate(timeout=120)
    assert driver.returncode == 130
    project.log()
    project.edit("(data.name * data.count)", "(data.name * data.count * 2)")
    driver = project.start("run", "--context", "slow=60", "--on-code-change", "accept")
    wait_for(project, driver, "first")
    time.sleep(1)
    driver.send_signal(signal.SIGTERM)
    driver.communicate(timeout=120)
    assert "step 0" not in project.log()
    out = project.run()
    assert "starts afresh (--on-code-change accept continues it)" in out
    assert project.log()[:2] == ["first", "step 0"]


def test_two_drivers_at_once_make_each_artifact_once(project: Project) -> None:
    first = project.start("run", "--context", "slow=6")
    wait_for(project, first, "step 1")
    second = project.start("run")
    out, errors = second.communicate(timeout=120)
    assert second.returncode == 0, out + errors
    assert re.search(r"wait  first: being made by process \d+ on \S+, for \d+ s; waiting for it", out)
    out, errors = first.communicate(timeout=120)
    assert first.returncode == 0, out + errors
    assert sorted(project.log()) == ["first", "second", "step 0", "step 1", "step 2"]
