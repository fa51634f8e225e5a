"""The cluster files pass Ray's checks and ours; mistakes are named, those Ray lets through included."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.validate import find_problems, main

ROOT = Path(__file__).resolve().parents[2]
FILES = ("cluster/ray_cluster.yaml", "cluster/on_prem.yaml")


@pytest.mark.parametrize("name", FILES)
def test_our_files_are_fine(name: str) -> None:
    assert find_problems(ROOT / name) == []


def test_root_link_is_the_aws_file() -> None:
    assert (ROOT / "ray_cluster.yaml").resolve() == ROOT / "cluster/ray_cluster.yaml"


@pytest.mark.parametrize("name", FILES)
def test_every_key_of_our_files_is_explained(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    comments = sum(line.lstrip().startswith("#") for line in lines)
    settings = sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in lines)
    assert comments >= settings / 3


def _edit(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split("/")
    place = config
    for parent in parents:
        place = place[parent]
    place[last] = value
    return config


NODE = "available_node_types/gpu"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("provider/regon", "us-west-2", "provider: unknown 'regon'; did you mean 'region'?"),
        ("provider/type", "awss", "provider.type: 'awss' is not one of ['aws', 'local']"),
        (f"{NODE}/node_config/InstanceTyp", "m6i.large", "did you mean 'InstanceType'?"),
        (f"{NODE}/node_config/InstanceType", "g6e.12xlarg", "did you mean 'g6e.12xlarge'?"),
        (f"{NODE}/node_config/InstanceType", None, "available_node_types.gpu.node_config"),
        (f"{NODE}/node_config/BlockDeviceMappings", [{"Ebs": {"VolumSize": 3}}], "VolumSize"),
        (f"{NODE}/node_config/BlockDeviceMappings", [{"Ebs": {"VolumeSize": "big"}}], "Ebs.VolumeSize"),
        (
            f"{NODE}/max_workers",
            99,
            "available_node_types.gpu.max_workers: 99 is above the cluster's max_workers of 12",
        ),
        (f"{NODE}/min_workers", 5, "min_workers: 5 is above its max_workers of 4"),
        (f"{NODE}/max_worker", 3, "(Ray's schema)"),
        ("head_node_type", "haed", "`head_node_type` must be one of"),
        ("idle_timeout", 3, "(Ray's schema)"),
        ("docker/image", "rayproject/ray:2.40.0-py311-cpu", "docker.image: rayproject/ray:2.40.0-py311-cpu is not Ray"),
        ("file_mounts", {"/home/ray/x": "no-such-file"}, "file_mounts./home/ray/x: no-such-file does not exist"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, path: str, value: Any, expected: str) -> None:
    config = _edit(yaml.safe_load((ROOT / FILES[0]).read_text()), path, value)
    file = tmp_path / "broken.yaml"
    file.write_text(yaml.safe_dump(config))
    problems = find_problems(file)
    assert any(expected in problem for problem in problems), problems


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "cluster_name: x\n"])
def test_not_a_cluster_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    assert len(find_problems(file)) == 1


def test_missing_file_and_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.yaml")]) == 1
    assert "cannot be read" in capsys.readouterr().out
    for words, status in (([], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == status
