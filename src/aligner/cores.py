"""How many processor cores this process may use, which in a container or under taskset are not all that there are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that the process may run on, and no more than the quotas of its control groups pay for; at least 1.

    Args:
        root: where the system's files are looked for.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Of a quota of 2.5 cores the half is left: threads that wait for a throttled one cost more than it would bring.
    return max(1, min([cores, *map(int, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas in cores, of the groups that the process is in and of those around them."""
    for group in _groups(root):
        try:
            if (both := group / "cpu.max").is_file():  # version 2: "200000 100000", or "max 100000"
                quota, period = both.read_text(encoding="ascii").split()
            else:
                quota = (group / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
                period = (group / "cpu.cfs_period_us").read_text(encoding="ascii")
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # no quota here, or none that can be read
            continue


def _groups(root: Path) -> Iterator[Path]:
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    # In a container the root of what is mounted is often the process's own group, whatever its path says.
    yield from (mounted, mounted / "cpu")
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        top = mounted / "cpu" if "cpu" in controllers.split(",") else mounted if not controllers else None
        if top is None or ".." in path:
            continue
        group = top / path.strip("/")
        while group != top:
            yield group
            group = group.parent
