"""What a machine lacks is named with the remedy; a container's limits are the machine's."""

import os
from pathlib import Path

import pytest

from localnet.machine import Machine, cpu_s, demand_disk, demand_memory, look_at_machine
from template import host
from template.errors import ConfigError

GB = 10**9


def make_machine(memory: int | None = 8 * GB, disk: int = 8 * GB) -> Machine:
    return Machine(cores=2.0, memory_bytes=memory, disk_bytes=disk)


def test_processes_that_do_not_fit_are_refused_with_how_many_would() -> None:
    demand_memory(make_machine(), 8, GB // 2)
    demand_memory(make_machine(memory=None), 8, GB // 2)
    with pytest.raises(ConfigError, match=r"memory: 32 processes .* \(15 neurons fit\)"):
        demand_memory(make_machine(), 32, GB // 2)
    with pytest.raises(ConfigError, match=r"\(0 neurons fit\)"):
        demand_memory(make_machine(memory=0), 1, GB // 2)


def test_a_full_disk_is_refused_with_the_folder(tmp_path: Path) -> None:
    demand_disk(make_machine(), tmp_path, 8 * GB)
    with pytest.raises(ConfigError, match=f"disk: .*{tmp_path}.*--out"):
        demand_disk(make_machine(), tmp_path, 8 * GB + 1)


def test_a_machine_is_seen(tmp_path: Path) -> None:
    found = look_at_machine(tmp_path)
    assert 0 < found.cores <= (os.cpu_count() or 1)
    assert found.disk_bytes > 0


def test_a_container_has_its_own_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    monkeypatch.setattr(host, "MEMINFO", tmp_path / "meminfo")
    assert look_at_machine(tmp_path).memory_bytes is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  4000000 kB\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert look_at_machine(tmp_path).cores == 0.5
    assert look_at_machine(tmp_path).memory_bytes == 4_096_000_000
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.stat").write_text("anon 300000000\nfile 600000000\nshmem 0\n")
    assert look_at_machine(tmp_path).memory_bytes == 700_000_000, "a cache can be given back"
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert look_at_machine(tmp_path).memory_bytes == 4_096_000_000
    assert look_at_machine(tmp_path).cores >= 1


def test_cpu_of_a_process_grows_with_its_work() -> None:
    begun_s = cpu_s(os.getpid())
    while cpu_s(os.getpid()) == begun_s:
        pass
    assert cpu_s(2**22 + 1) == 0.0, "no such process"
