"""How a driver finds Ray: inside a submitted job, at `RAY_ADDRESS`, or a quiet local instance of its own.

Three routes, one call. In all three a worker starts in the repository root (locally the folder itself, on a cluster the
uploaded copy), so `import reca` means the package there, whatever folder the driver was started from.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Route = Literal["job", "address", "local"]

ROOT = Path(__file__).resolve().parents[1]
"""The repository root: what workers import from, and what is uploaded to a cluster."""

LOCAL_POLL_S = "0.2"
CLUSTER_POLL_S = "0.5"
CONNECT_TIMEOUT_S = 10.0
_JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class ClusterError(RuntimeError):
    """Ray could not be reached or started; the message names the address and the mend."""


@dataclass(frozen=True)
class ClusterInfo:
    """What the driver is connected to.

    Attributes:
        route: `job` (submitted job), `address` (`RAY_ADDRESS`) or `local` (started by this process, ends with it).
        address: address of the GCS, such as `10.0.0.4:6379`.
        nodes: nodes alive now.
        cpus: logical CPUs now.
        gpus: GPUs now.
        max_cpus: logical CPUs the autoscaler may reach; `cpus` where there is no autoscaler.
        max_gpus: GPUs the autoscaler may reach; `gpus` where there is no autoscaler.
    """

    route: Route
    address: str
    nodes: int
    cpus: float
    gpus: float
    max_cpus: float
    max_gpus: float


def connect(cpus: int | None = None) -> ClusterInfo:
    """Connect this process to Ray, once; a second call reports on the connection that stands.

    Args:
        cpus: logical CPUs of a local instance (default: the machine's). Not used where a cluster is attached to: it has
            its own count.

    Returns:
        Nodes, CPUs and GPUs of the cluster.

    Raises:
        ClusterError: `RAY_ADDRESS` names a dashboard or a Ray Client endpoint, or nothing answers there, or a local
            instance cannot start.
    """
    route = find_route()
    _set_environment(route)
    import ray

    if not ray.is_initialized():
        _initialize(route, cpus)
    return _describe(route)


def find_route() -> Route:
    """Tell which of the three routes this process takes, from its environment alone."""
    if os.environ.get(_JOB_CONFIG_VARIABLE):
        return "job"
    return "address" if os.environ.get("RAY_ADDRESS", "local") != "local" else "local"


def _set_environment(route: Route) -> None:
    """Set Ray's knobs before it is imported; whatever the user has set stays."""
    for name, value in _knobs(route).items():
        os.environ.setdefault(name, value)
    if route == "local" and "RAY_AUTH_MODE" not in os.environ and not (Path.home() / ".ray" / "auth_token").exists():
        # A local Ray asks for a token and would save one in the home folder, which makes a later `ray start` ask for it
        # while `ray job submit` does not send it (401). One for this process alone has no such after-effect.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _knobs(route: Route) -> dict[str, str]:
    return {
        # Every checkpoint report waits for the controller's next poll: 2 s by default, 0.1 s measured at 0.1 s polls.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": LOCAL_POLL_S if route == "local" else CLUSTER_POLL_S,
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def _initialize(route: Route, cpus: int | None) -> None:
    address = os.environ.get("RAY_ADDRESS", "")
    if "://" in address:
        raise ClusterError(
            f"RAY_ADDRESS={address} is a dashboard or Ray Client address; a driver needs the GCS address, host:port "
            "(6379 by default). Run on the cluster instead: ray job submit --working-dir . -- python pipelines/reca.py "
            "run, or unset RAY_ADDRESS to use this machine."
        )
    try:
        _start_local(cpus) if route == "local" else _attach(route)
    except Exception as error:  # Ray raises a bare Exception where its own node does not come up in time
        where = "start Ray on this machine" if route == "local" else f"reach Ray at RAY_ADDRESS={address or 'auto'}"
        mend = (
            "check free memory, disk space below /tmp and RAY_TMPDIR, and how busy the machine is: Ray gives up when "
            "its processes take longer than half a minute to start"
            if route == "local"
            else "check `ray status` there (and RAY_AUTH_MODE=token if the cluster asks for one), or unset RAY_ADDRESS"
        )
        raise ClusterError(f"cannot {where}: {str(error).rstrip('.')}; {mend}") from error


def _start_local(cpus: int | None) -> None:
    import ray

    # Ray gives its workers the driver's current folder, both to stand in and to import from. From `pipelines/` that
    # would make `import reca` load the script pipelines/reca.py, so Ray is started from the root.
    with contextlib.chdir(ROOT):
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def _attach(route: Route) -> None:
    import ray

    host, _, port = os.environ.get("RAY_ADDRESS", "auto").rpartition(":")
    if host:
        # Ray itself retries a silent address for more than two minutes.
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()

    ray.init(
        address="auto",
        runtime_env=_runtime_env(route),
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _runtime_env(route: Route) -> dict[str, Any]:
    """What workers of an attached cluster need; a submitted job already has the working directory and its variables.

    Ray refuses a variable that the job's environment names too, so those are left out here.
    """
    taken: dict[str, Any] = {}
    if route == "job":
        taken = (json.loads(os.environ[_JOB_CONFIG_VARIABLE]).get("runtime_env") or {}).get("env_vars") or {}
    env_vars = {name: os.environ[name] for name in _knobs(route) if name not in taken}
    environment: dict[str, Any] = {"env_vars": env_vars}
    if route == "address":
        # .gitignore and .rayignore of the root say what stays here; Ray itself leaves out .git and .venv.
        environment["working_dir"] = str(ROOT)
    return environment


def _describe(route: Route) -> ClusterInfo:
    import ray
    from ray._private.state import state

    now = ray.cluster_resources()
    most = state.get_max_resources_from_cluster_config() or {}
    cpus, gpus = float(now.get("CPU", 0)), float(now.get("GPU", 0))
    return ClusterInfo(
        route=route,
        address=str(ray.get_runtime_context().gcs_address),
        nodes=sum(bool(node["Alive"]) for node in ray.nodes()),
        cpus=cpus,
        gpus=gpus,
        max_cpus=max(cpus, float(most.get("CPU", 0))),
        max_gpus=max(gpus, float(most.get("GPU", 0))),
    )
