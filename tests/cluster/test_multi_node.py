"""Several raylets on one machine stand for several nodes: connect() attaches, ships the code, and work spreads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.ray

DRIVER = """
import json, os, sys
os.environ["RAY_AUTH_MODE"] = "disabled"  # loopback, and gone in a minute
sys.path.insert(0, {root!r})
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1}})
cluster.add_node(num_cpus=1)
cluster.add_node(num_cpus=1, resources={{"far": 1}})
os.environ["RAY_ADDRESS"] = cluster.address

from cluster.connect import connect
info = connect(cpus=16)

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

@ray.remote(num_cpus=1)
def look():
    import os
    import reca
    bars = os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"]
    return [ray.get_runtime_context().get_node_id(), os.getcwd(), reca.__file__, bars]

group = placement_group([{{"CPU": 1}}] * 3, strategy="STRICT_SPREAD")
ray.get(group.ready(), timeout=60)
places = [PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i) for i in range(3)]
spread = ray.get([look.options(scheduling_strategy=place).remote() for place in places])
ray.util.remove_placement_group(group)
far = ray.get(look.options(resources={{"far": 1}}).remote())
print(json.dumps({{"info": [info.route, info.nodes, info.cpus, info.max_cpus], "spread": spread, "far": far}}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.timeout(240)
def test_three_nodes(tmp_path: Path, short_tmp: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(root=str(ROOT)))
    # Cluster notes its address in Ray's folder and expects that to exist.
    (short_tmp / "ray").mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**clean, "RAY_TMPDIR": str(short_tmp), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["info"] == ["address", 3, 3, 3], "the cluster's own CPUs count, not those asked for a local Ray"
    nodes = {node for node, *_ in seen["spread"]}
    assert len(nodes) == 3, "one worker a node"
    assert seen["far"][0] in nodes
    for _, folder, reca, progress_bars in seen["spread"]:
        assert Path(reca) == Path(folder) / "reca/__init__.py", "workers import the copy that was shipped"
        assert not Path(folder).is_relative_to(ROOT)
        assert progress_bars == "1"
