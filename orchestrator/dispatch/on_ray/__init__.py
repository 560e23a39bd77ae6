"""All that knows Ray: joining a cluster, agents on its nodes, the coordinator on its head. Nothing else imports ray.

Ray reads its environment when it is imported, so what this host needs for the cluster is set here, before.
"""

from __future__ import annotations

import os

from orchestrator.cluster.environment import cluster_environment

for name, value in cluster_environment().items():
    os.environ.setdefault(name, value)
