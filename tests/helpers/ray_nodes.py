"""A Ray cluster on this machine: a head and more nodes, each a raylet of its own, for as long as a test lasts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_HERE = Path(__file__).resolve().parent
_STORE_BYTES = 80 * 2**20

ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # what others on this machine take must not end our workers
    "RAY_worker_niceness": "0",  # at Ray's 15 a worker gets next to nothing beside whatever else runs here
    "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "240",  # a client's own server imports Ray, slowly on a busy machine
    # A node is called dead after a few seconds and not after half a minute.
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
    "RAY_health_check_initial_delay_ms": "500",
}


@contextmanager
def ray_cluster(**head: Any) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` whose processes find the jobs of the tests; `head`: its node's arguments."""
    path = os.pathsep.join(one for one in (str(_HERE), *sys.path) if one)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "PYTHONPATH": path}.items():
            patch.setenv(name, value)
        ray = pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=node(**head))
        try:
            yield cluster
        finally:
            _print_client_logs(Path(cluster.head_node.get_logs_dir_path()))
            ray.shutdown()
            cluster.shutdown()


def node(**more: Any) -> dict[str, Any]:
    """Arguments of a node; two CPUs, whatever this machine has, unless `more` says otherwise."""
    return {"num_cpus": 2, "num_gpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False, **more}


def _print_client_logs(logs: Path) -> None:
    """The ends of what the servers of Ray's clients wrote: the only place that says why one did not come up."""
    for path in sorted(logs.glob("ray_client_server*.err")):
        print(f"{path.name}: ...{path.read_text(errors='replace')[-2000:]}")
