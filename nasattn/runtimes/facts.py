"""What a machine says of itself where it can be read: processor, governor, load, energy."""

import os
import platform
import time
from pathlib import Path

CPU = Path("/sys/devices/system/cpu")
POWERCAP = Path("/sys/class/powercap")


def machine_facts() -> dict[str, str]:
    """Processor, cores, system; governor and load where Linux tells them."""
    facts = {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "governor": _read(CPU / "cpu0/cpufreq/scaling_governor"),
        "load": load(),
        "energy": "by RAPL" if energy_counters() else "not available",
    }
    return {name: value or "not available" for name, value in facts.items()}


def processor() -> str:
    """The processor's name where Linux tells it, else the architecture."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):  # the latter on a Raspberry Pi
            return value.strip()
    return platform.processor() or platform.machine()


def load() -> str:
    """The load of the last minute."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""


def pin(n: int, seconds: float = 0.2) -> list[int]:
    """Keep this process on the `n` idlest cores that it may use; [] where it cannot be told."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    allowed = os.sched_getaffinity(0)
    before = _idle_times()
    time.sleep(seconds)
    now = _idle_times()
    if n > len(allowed) or not allowed <= now.keys() & before.keys():
        return []
    idlest = sorted(allowed, key=lambda core: before[core] - now[core])[:n]
    os.sched_setaffinity(0, idlest)
    return sorted(idlest)


def _idle_times() -> dict[int, int]:
    """Ticks that each core was idle."""
    rows = (line.split() for line in _read(Path("/proc/stat")).splitlines())
    return {int(r[0][3:]): int(r[4]) for r in rows if r[0][:3] == "cpu" and r[0] != "cpu"}


def peak_memory() -> int:
    """Bytes that this process had in memory at most; 0 where it cannot be read."""
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):  # ru_maxrss would begin with what the parent had
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, on macOS


def energy_counters(folder: Path = POWERCAP) -> list[Path]:
    """RAPL's counters of whole packages, in microjoules, that may be read."""
    return [p for p in sorted(folder.glob("intel-rapl:?/energy_uj")) if os.access(p, os.R_OK)]


def energy(counters: list[Path]) -> int:
    """Microjoules so far, over all packages."""
    return sum(int(path.read_text()) for path in counters)


def _read(path: Path) -> str:
    """A small file's text; "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
