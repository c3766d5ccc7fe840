"""What the system grants: affinity, cores, quotas of both kinds of control groups, threads that can be started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import adaptrt
from adaptrt.runtime import BackendError, Budget, load
from adaptrt.runtime.device.processors import Processors, check_startable, cpu_quota, granted_processors

TINY = Path(__file__).parents[1] / "fixtures" / "tiny"
SOURCE = Path(adaptrt.__file__).parent.parent
UNIFIED = "31 23 0:28 {root} /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
LEGACY = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def unified(root: Path, group: str, mounted: str = "/", **quotas: str) -> Path:
    """A file system with cgroup v2; ``quotas`` by folder, ``__`` for a slash."""
    files = {"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": UNIFIED.format(root=mounted)}
    files |= {f"sys/fs/cgroup/{name.replace('__', '/')}/cpu.max": text for name, text in quotas.items()}
    return write(root, files)


def test_no_control_groups_no_quota(tmp_path):
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    "text,quota",
    [("30000 100000\n", 0.3), ("150000 100000", 1.5), ("max 100000\n", None), ("", None), ("0 100000", None),
     ("-1 100000", None), ("30000 0", None), ("30000", None), ("a b", None), ("1 1000000000", 0.001)],
)  # fmt: skip
def test_the_quota_of_a_unified_group(tmp_path, text, quota):
    assert cpu_quota(unified(tmp_path, "/app", app=text)) == quota


def test_the_smallest_quota_above_a_process_counts(tmp_path):
    root = unified(tmp_path, "/a/b/c", a="200000 100000", a__b="50000 100000", a__b__c="max 100000")
    assert cpu_quota(root) == 0.5


def test_in_a_container_the_host_s_path_is_not_mounted(tmp_path):
    """Docker: the group is named as on the host, what is mounted is the container's own."""
    root = unified(tmp_path, "/docker/abc", mounted="/docker/abc")
    write(root, {"sys/fs/cgroup/cpu.max": "80000 100000"})
    assert cpu_quota(root) == 0.8
    root = unified(tmp_path / "outside", "/../other")
    write(root, {"sys/fs/cgroup/cpu.max": "70000 100000"})
    assert cpu_quota(root) == 0.7


@pytest.mark.parametrize("quota,period,expected", [("25000", "100000", 0.25), ("-1", "100000", None), ("", "", None)])
def test_the_quota_of_a_legacy_group(tmp_path, quota, period, expected):
    folder = "sys/fs/cgroup/cpu,cpuacct/job"
    files = {
        "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/job\n1:name=systemd:/\n0::/\n",
        "proc/self/mountinfo": LEGACY.format(root="/")
        + UNIFIED.format(root="/").replace("/cgroup ", "/cgroup/unified "),
        f"{folder}/cpu.cfs_quota_us": quota,
        f"{folder}/cpu.cfs_period_us": period,
    }
    assert cpu_quota(write(tmp_path, files)) == expected


def test_a_damaged_proc_is_no_quota(tmp_path):
    write(tmp_path, {"proc/self/cgroup": "nonsense\n::\n0::\n", "proc/self/mountinfo": "a b c\n\n- - -\n"})
    assert cpu_quota(tmp_path) is None


def test_threads_of_a_core_are_one(tmp_path):
    usable = sorted(os.sched_getaffinity(0))
    for number in usable:
        write(tmp_path, {f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": "0-1\n"})
    assert granted_processors(tmp_path) == Processors(len(usable), 1, None)


@pytest.mark.parametrize(
    "cores,quota,threads", [(8, None, 8), (8, 0.3, 1), (8, 1.0, 1), (8, 1.9, 1), (8, 2.0, 2), (2, 6.5, 2), (1, None, 1)]
)
def test_threads_worth_having(cores, quota, threads):
    assert Processors(cores, cores, quota).threads == threads


def test_a_model_takes_what_is_granted(monkeypatch):
    from adaptrt.runtime import loading

    monkeypatch.setattr(loading, "granted_processors", lambda: Processors(64, 32, 3.7))
    model = load(TINY)
    assert model.backend.session.get_session_options().intra_op_num_threads == 3
    assert model._device.key(1).threads == 3
    assert load(TINY, threads=2).backend.session.get_session_options().intra_op_num_threads == 2


def test_numbers_of_numpy_are_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path))
    model = load(TINY, threads=np.int64(1))
    model.run({"x": np.ones((1, 4), np.float32)}, budget=Budget.latency(50.0))
    assert type(model._device.key(1).threads) is int


def test_a_profile_holds_for_what_was_granted(monkeypatch):
    from adaptrt.runtime.device import profiling

    keys = set()
    model = load(TINY, threads=1)
    for granted in (Processors(4, 4, None), Processors(4, 4, 0.3), Processors(2, 2, None)):
        monkeypatch.setattr(profiling, "granted_processors", lambda granted=granted: granted)
        keys.add(model._device.key(1))
    assert len(keys) == 3 and {key.quota for key in keys} == {None, 0.3}


LIMITED = """
import resource, sys
from adaptrt.runtime import BackendError, load
resource.setrlimit(resource.RLIMIT_NPROC, (20, 20))
try:
    load(sys.argv[1], threads=64)
except BackendError as error:
    print(error)
"""


def test_threads_that_the_system_refuses(monkeypatch):
    """Engines wait for ever for a thread that was refused; here it is an error, and nothing is left running."""
    import threading

    before, real, started = threading.active_count(), threading.Thread.start, []

    def start(thread):
        if len(started) == 11:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(
        BackendError, match=r"got threads=64, but .* only 11 more, expected 63; pass threads=6"
    ) as caught:
        load(TINY, threads=64)
    assert "\n" not in str(caught.value)
    assert threading.active_count() == before
    monkeypatch.undo()
    check_startable(64)
    assert load(TINY, threads=6).backend is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user whose processes are counted")
def test_a_real_limit_of_processes():
    """As a user of its own, since root's threads are not counted."""
    code = LIMITED.replace("resource.setrlimit", "import os; os.setuid(54321); resource.setrlimit", 1)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(TINY)], capture_output=True, text=True, timeout=60, env=environment
    )
    if "PermissionError" in done.stderr or "ModuleNotFoundError" in done.stderr or "No module" in done.stderr:
        pytest.skip("that user cannot read this checkout")
    assert done.returncode == 0 and "got threads=64, but the system lets" in done.stdout, done.stderr
