"""connect(): which route is taken, what is refused, and what a worker sees."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from cluster import connect as module
from cluster.connect import ClusterError, connect, find_route
from cluster.connect import _runtime_env as runtime_env  # pyright: ignore[reportPrivateUsage]

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.ray

PROBE = """
import json, os, sys
sys.path.insert(0, {root!r})
from cluster.connect import connect
info = connect(cpus=2)
assert connect() == info, "a second call must report on the same connection"
import ray

@ray.remote
def look():
    import os
    import pipelines
    import reca
    return [os.getcwd(), reca.__file__, pipelines.__file__, os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"]]

print(json.dumps([info.route, info.nodes, info.cpus, info.max_cpus, *ray.get(look.remote())]))
"""


def _clean_environment(**extra: str) -> dict[str, str]:
    ray_free = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**ray_free, "OMP_NUM_THREADS": "1", **extra}


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_routes(no_ray: pytest.MonkeyPatch) -> None:
    assert find_route() == "local"
    no_ray.setenv("RAY_ADDRESS", "local")
    assert find_route() == "local"
    no_ray.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert find_route() == "address"
    no_ray.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert find_route() == "job"


def test_job_keeps_the_variables_its_submitter_set(no_ray: pytest.MonkeyPatch) -> None:
    no_ray.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "0")
    no_ray.setenv("RAY_TRAIN_V2_ENABLED", "1")
    no_ray.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "9")
    no_ray.setenv("RAY_USAGE_STATS_ENABLED", "0")
    no_ray.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    job = {"runtime_env": {"working_dir": "gcs://x.zip", "env_vars": {"RAY_DATA_DISABLE_PROGRESS_BARS": "0"}}}
    no_ray.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    environment = runtime_env("job")
    assert "working_dir" not in environment, "Ray refuses a second working_dir"
    assert "RAY_DATA_DISABLE_PROGRESS_BARS" not in environment["env_vars"], "Ray refuses a variable named twice"
    assert environment["env_vars"]["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "9"
    assert runtime_env("address")["working_dir"] == str(ROOT)


def test_ray_that_does_not_come_up(no_ray: pytest.MonkeyPatch) -> None:
    def time_out(cpus: int | None) -> None:
        raise Exception(f"The current node timed out during startup with {cpus} CPUs.")

    no_ray.setattr(ray, "is_initialized", lambda: False)
    no_ray.setattr(module, "_start_local", time_out)
    with pytest.raises(ClusterError, match=r"on this machine: The current node .* with 2 CPUs; check .* how busy"):
        connect(cpus=2)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001"])
def test_dashboard_and_client_addresses_are_refused(no_ray: pytest.MonkeyPatch, address: str) -> None:
    no_ray.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=r"needs the GCS address.*ray job submit"):
        connect()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:port"])
def test_nothing_at_the_address(no_ray: pytest.MonkeyPatch, address: str) -> None:
    no_ray.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=rf"cannot reach Ray at RAY_ADDRESS={address}: .*unset RAY_ADDRESS"):
        connect()


@pytest.mark.timeout(120)
def test_local_ray_from_a_folder_with_a_script_named_reca(tmp_path: Path, short_tmp: Path) -> None:
    """The trap: the driver stands in, and is started from, a folder with a `reca.py`; workers must not import that."""
    script = tmp_path / "reca.py"
    script.write_text(PROBE.format(root=str(ROOT)))
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=_clean_environment(RAY_TMPDIR=str(short_tmp), HOME=str(home)),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, "Ray must start quietly"
    route, nodes, cpus, max_cpus, folder, reca, pipelines, interval = json.loads(lines[0])
    assert (route, nodes, cpus, max_cpus, interval) == ("local", 1, 2, 2, "0.2")
    assert folder == str(ROOT)
    assert reca == str(ROOT / "reca/__init__.py")
    assert pipelines == str(ROOT / "pipelines/__init__.py")
    assert not (home / ".ray/auth_token").exists(), (
        "a token left behind makes later `ray job submit` calls fail with 401"
    )
