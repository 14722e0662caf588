"""Real nodes under real faults: processes, disks and sockets of this machine, and what breaks them.

``python -m chaos.live PLAN`` carries out a plan of chaos/plans: a cluster, callers, a nemesis, and a verdict by the
history checker. Traffic and nemesis know nothing of each other, and neither judges.
"""

from chaos.live.cluster import LiveCluster, Trouble

__all__ = ["LiveCluster", "Trouble"]
