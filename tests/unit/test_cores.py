"""The cores that a process may use: its affinity, bounded by the quotas of control groups of both versions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from aligner.cores import usable_cores

V1 = "4:memory:/job\n1:cpu,cpuacct:/job/step\n"


@pytest.fixture(autouse=True)
def _sixty_four_cores(monkeypatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def system(root: Path, groups: str = "", **files: str) -> Path:
    """A root with /proc/self/cgroup and some files under /sys/fs/cgroup; __ in a name stands for a slash."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = (
            root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs_", "cpu.cfs_")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, 64),
        ("0::/\n", {"cpu_max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu_max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu_max": "9900000 100000\n"}, 64),
        ("0::/\n", {"cpu_max": "what\n"}, 64),
        ("0::/\n", {"cpu_max": "100000 0\n"}, 64),
        ("0::/a/b\n", {"a__b__cpu_max": "800000 100000", "a__cpu_max": "400000 100000"}, 4),
        ("0::/a/b\n", {"a__b__cpu_max": "300000 100000", "a__cpu_max": "max 100000"}, 3),
        ("0::/a/b\n", {"other__cpu_max": "100000 100000"}, 64),
        ("0::/../x\n", {"cpu_max": "500000 100000"}, 5),
        ("", {"cpu__cfs_quota_us": "600000\n", "cpu__cfs_period_us": "100000\n"}, 6),
        ("", {"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}, 64),
        (V1, {"cpu__job__step__cfs_quota_us": "700000", "cpu__job__step__cfs_period_us": "100000"}, 7),
    ],
)
def test_a_quota_bounds_the_cores(tmp_path, groups: str, files: Mapping[str, str], expected: int) -> None:
    assert usable_cores(system(tmp_path, groups, **files)) == expected


def test_affinity_bounds_the_cores(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 9}, raising=False)
    assert usable_cores(system(tmp_path)) == 3
    assert usable_cores(system(tmp_path / "more", cpu_max="800000 100000")) == 3
    assert usable_cores(system(tmp_path / "less", cpu_max="200000 100000")) == 2


def test_without_affinity_and_control_groups_all_cores_count(tmp_path, monkeypatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores(tmp_path) == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_process_bound_to_one_core_has_one() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from aligner.cores import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
