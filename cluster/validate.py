"""Check a cluster file before `ray up`: Ray's own checks, and the mistakes that Ray lets through.

Ray 2.60 accepts a typo under `provider` or `node_config`, an unknown instance type, and a node type whose `max_workers`
is above the cluster's. All of them show up minutes later as a failed or missing node.
Usage: `python -m cluster.validate FILE...`
"""

import argparse
import copy
import difflib
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

PROVIDER_KEYS: Mapping[str, frozenset[str]] = {
    # Read by ray/autoscaler/_private/aws/{config,node_provider}.py and cloudwatch/cloudwatch_helper.py in Ray 2.60.
    "aws": frozenset(
        {
            "type",
            "region",
            "availability_zone",
            "cache_stopped_nodes",
            "use_internal_ips",
            "security_group",
            "key_pair",
            "aws_credentials",
            "cloudwatch",
            "disable_node_updaters",
        }
    ),
    # Read by ray/autoscaler/_private/local/{config,node_provider}.py in Ray 2.60.
    "local": frozenset(
        {"type", "head_ip", "external_head_ip", "worker_ips", "coordinator_address", "disable_node_updaters"}
    ),
}

RAY_NODE_KEYS = frozenset({"SubnetIds"})
"""Keys of an AWS `node_config` that Ray reads itself and EC2 does not know."""


def find_problems(path: Path) -> list[str]:
    """Everything wrong with a cluster file, each as one line that says where and how to mend it.

    Args:
        path: a YAML file for `ray up`, provider `aws` or `local`.

    Returns:
        One string a problem; empty when the file is fine. Paths in `file_mounts` are relative to the repository root.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        return [f"{path}: cannot be read as YAML: {error}"]
    if not isinstance(config, dict) or not isinstance(config.get("provider"), dict):
        return [f"{path}: needs a mapping with a `provider` section (type: aws or local)"]
    problems = [*_check_provider(config["provider"]), *_check_file_mounts(config), *_check_ray_version(config)]
    problems += _check_node_types(config)
    # Ray completes a file before it validates it, and aborts on the first thing it finds: ours go first.
    problems += _check_with_ray(config)
    return [f"{path}: {problem}" for problem in problems]


def _check_with_ray(config: dict[str, Any]) -> list[str]:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except ValidationError as error:
        return [f"{'.'.join(map(str, error.absolute_path)) or 'top level'}: {error.message} (Ray's schema)"]
    except (ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        return [f"{type(error).__name__}: {error} (Ray's validate_config)"]
    except SystemExit:
        return ["Ray refused the file while completing it; the message is above"]
    return []


def _check_provider(provider: Mapping[str, Any]) -> list[str]:
    kind = str(provider.get("type"))
    if kind not in PROVIDER_KEYS:
        return [f"provider.type: {kind!r} is not one of {sorted(PROVIDER_KEYS)}"]
    return [_unknown("provider", key, PROVIDER_KEYS[kind]) for key in provider if key not in PROVIDER_KEYS[kind]]


def _check_node_types(config: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    limit = config.get("max_workers")
    for name, node in (config.get("available_node_types") or {}).items():
        where = f"available_node_types.{name}"
        most, least = node.get("max_workers"), node.get("min_workers", 0)
        if most is not None and limit is not None and most > limit:
            problems.append(
                f"{where}.max_workers: {most} is above the cluster's max_workers of {limit}; raise that one"
            )
        if most is not None and least > most:
            problems.append(f"{where}.min_workers: {least} is above its max_workers of {most}")
        if config["provider"].get("type") == "aws":
            problems += _check_instance(f"{where}.node_config", node.get("node_config") or {})
    return problems


def _check_instance(where: str, node_config: Mapping[str, Any]) -> list[str]:
    """Check a `node_config` against the model of EC2's RunInstances that botocore carries: names, nesting and types."""
    from botocore.validate import ParamValidator

    shape = _run_instances_shape()
    known = {*shape.members, *RAY_NODE_KEYS}
    problems = [_unknown(where, key, known) for key in node_config if key not in known]
    # Ray adds the two counts, which EC2 requires.
    request = {key: value for key, value in node_config.items() if key in shape.members} | {
        "MinCount": 1,
        "MaxCount": 1,
    }
    report = ParamValidator().validate(request, shape)
    if report.has_errors():
        problems += [f"{where}: {line}" for line in report.generate_report().splitlines()]
    kinds: list[str] = shape.members["InstanceType"].enum
    kind = node_config.get("InstanceType")
    if kind is None:
        problems.append(f"{where}.InstanceType: missing; Ray cannot tell what to launch")
    elif kind not in kinds:
        problems.append(_unknown(f"{where}.InstanceType", str(kind), kinds))
    return problems


@cache
def _run_instances_shape() -> Any:
    from botocore.session import get_session

    return get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def _check_file_mounts(config: Mapping[str, Any]) -> list[str]:
    root = Path(__file__).resolve().parents[1]
    return [
        f"file_mounts.{remote}: {local} does not exist below {root}; `ray up` copies it to every node"
        for remote, local in (config.get("file_mounts") or {}).items()
        if not str(local).startswith("~") and not (root / str(local)).exists()
    ]


def _check_ray_version(config: Mapping[str, Any]) -> list[str]:
    """Ray refuses drivers of another version; images have to carry the one installed here."""
    mine = version("ray")
    docker = config.get("docker") or {}
    images = {f"docker.{key}": docker[key] for key in ("image", "head_image", "worker_image") if key in docker}
    for name, node in (config.get("available_node_types") or {}).items():
        if "worker_image" in (node.get("docker") or {}):
            images[f"available_node_types.{name}.docker.worker_image"] = node["docker"]["worker_image"]
    return [
        f"{where}: {image} is not Ray {mine}, the version installed here; take rayproject/ray:{mine}-py311-..."
        for where, image in images.items()
        if image.startswith("rayproject/ray:") and not image.startswith(f"rayproject/ray:{mine}-")
    ]


def _unknown(where: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"{where}: unknown {name!r}" + (f"; did you mean {near[0]!r}?" if near else "; take it out")


def main(arguments: list[str]) -> int:
    """Print what is wrong with each file; exit status 1 if anything is."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.validate", description="Check cluster files before `ray up`: no account is needed."
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="YAML file for `ray up`, provider aws or local")
    problems = {name: find_problems(Path(name)) for name in parser.parse_args(arguments).files}
    for name, found in problems.items():
        print("\n".join(found) if found else f"{name}: fine (Ray {version('ray')})")
    return int(any(problems.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
