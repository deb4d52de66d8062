"""A Ray cluster on this machine for tests: a head without CPUs and two nodes of two, each a raylet of its own.

It prints its address, then obeys lines on standard input: `kill` ends a node like a power cut and adds another;
the end of input stops everything.
"""

from __future__ import annotations

import os
import sys

# no reports, loopback only, workers no nicer than others
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_worker_niceness="0")

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    cpus = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=cpus) for _ in range(2)]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=cpus))
            print("killed", flush=True)
    cluster.shutdown()
