"""Energy of a processor's package, cores, memory and platform: RAPL under Linux' powercap.

Layout: the kernel's document "Power Capping Framework" (power/powercap/powercap) and
ABI/testing/sysfs-class-powercap: ``energy_uj`` counts microjoules and starts again at 0 after
``max_energy_range_uj``. AMD's processors show theirs under the same name. Since Linux 5.10 only root may
read the counters (INTEL-SA-00389, CVE-2020-8694).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from adaptrt.runtime.telemetry.energy import counted
from adaptrt.runtime.telemetry.reading import EnergyCounter, Reading, total_power
from adaptrt.runtime.telemetry.sensor_file import ENERGY, SensorFile, exists, listed, read_text, unused

DENIED = (
    "rapl: energy counters are there but only root may read them; allow it until the next boot with "
    "`sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj` (see docs/telemetry.md for a lasting rule "
    "and what it gives away)"
)

_ZONE = re.compile(r"intel-rapl(?P<mmio>-mmio)?:(?P<top>\d+)(?::(?P<sub>\d+))?")
_DIE = re.compile(r"(?P<package>package-\d+)-die-\d+")

# Two dies of one AMD package (Zen 1 and 2) show the same counter; two counters that differ by less are one.
_MIRRORED_J = 0.1


@dataclass
class _Domain:
    name: str
    file: SensorFile
    range_j: float | None = None
    last: tuple[float, float] | None = None


class RaplReader:
    """Energy counters and the mean power between two readings; attributes as in ``Reader``."""

    name = "rapl"

    def __init__(self, domains: list[_Domain], total: tuple[str, ...], notes: tuple[str, ...]) -> None:
        self._domains = domains
        self._total = total
        self.notes = notes

    @staticmethod
    def find(root: Path) -> RaplReader | None:
        """The counters below a root folder; None if there are none. Denied ones leave a note."""
        zones = _zones(root)
        domains: dict[str, _Domain] = {}
        readable: dict[str, bool] = {}
        for path, name, memory_mapped in zones:
            # A package shows up twice, through registers and through memory: one counter, not two.
            if memory_mapped and readable.get(name):
                continue
            free = name if memory_mapped else unused(name, domains)
            domain = _Domain(free, SensorFile(path / "energy_uj", free, ENERGY))
            domain.range_j = SensorFile(path / "max_energy_range_uj", free, ENERGY).read([]) or None
            domains[free], readable[free] = domain, domain.file.read([]) is not None
        if not domains:
            return None
        denied = [domain.file.denied for domain in domains.values()]
        if all(denied):
            domains = {}
        return RaplReader(list(domains.values()), _total(domains), (DENIED,) if any(denied) else ())

    def read(self, time_s: float) -> Reading:
        """Ask every counter once; power is the mean since the reading before, absent at the first."""
        problems: list[str] = []
        energy: dict[str, EnergyCounter] = {}
        power_w: dict[str, float] = {}
        for domain in self._domains:
            joules = domain.file.read(problems)
            if joules is None:
                domain.last = None
                continue
            energy[domain.name] = EnergyCounter(joules, domain.range_j)
            if domain.last is not None:
                then, before = domain.last
                spent = counted(before, joules, domain.range_j, time_s - then)
                if spent is not None:
                    power_w[domain.name] = spent / (time_s - then)
            domain.last = (time_s, joules)
        return Reading(
            time_s=time_s,
            power_w=power_w,
            energy=energy,
            total=self._total,
            total_power_w=total_power(power_w, self._total),
            problems=tuple(problems),
        )

    def close(self) -> None:
        """Close the files."""
        for domain in self._domains:
            domain.file.close()


def _zones(root: Path) -> list[tuple[Path, str, bool]]:
    """Folder, name and whether through memory, of every counter; those through registers first."""
    zones = []
    for path in listed(root / "sys/class/powercap", "intel-rapl*:*"):
        match = _ZONE.fullmatch(path.name)
        if match and exists(path / "energy_uj"):
            parent = read_text(path.with_name(path.name.rpartition(":")[0]) / "name") if match["sub"] else None
            kind = read_text(path / "name") or path.name
            zones.append((path, f"{kind} {parent}" if parent else kind, bool(match["mmio"])))
    return sorted(zones, key=lambda zone: zone[2])


def _total(domains: dict[str, _Domain]) -> tuple[str, ...]:
    """Packages and memory: a package holds its cores and graphics but not its memory.

    The platform (``psys``) is a total only where it is alone: what it covers, and whether it is
    calibrated, is up to the board's maker.
    """
    packages = [name for name in domains if name.startswith("package")]
    kept: list[str] = []
    for name in packages:
        twin = _DIE.match(name)
        if not twin or not any(_mirrors(domains[name], domains[other]) for other in kept):
            kept.append(name)
    total = [*kept, *(name for name in domains if name.startswith("dram"))] if kept else []
    return tuple(total or (name for name in domains if name.startswith("psys")))


def _mirrors(one: _Domain, other: _Domain) -> bool:
    first, second = _DIE.match(one.name), _DIE.match(other.name)
    if not (first and second and first["package"] == second["package"]):
        return False
    count, twin = one.file.read([]), other.file.read([])
    return count is not None and twin is not None and min(count, twin) > 1 and abs(count - twin) < _MIRRORED_J
