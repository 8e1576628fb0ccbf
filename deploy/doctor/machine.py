"""Looks at the machine itself: Python, the libraries, the clock, descriptors, memory."""

import importlib
import os
import resource
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Final

from deploy.doctor.finding import Finding, failed, ok, warning
from deploy.process.clock import Clock, is_kept_in_step_by_ntp
from deploy.process.descriptors import plan_descriptors
from deploy.process.schedule_clock import ScheduleClock
from schemas.errors import Refused

ROOT: Final = Path(__file__).resolve().parent.parent.parent
SUPPORTED: Final = ((3, 11), (3, 12))
MEMORY_MB_MIN: Final = 400
"""An idle process has about 250 MB, most of it ClickHouse."""
MEMORY_MB_GOOD: Final = 1_024
_MODULES: Final = {
    "chdb-core-lite": "chdb",
    "msgspec": "msgspec",
    "rocksdict": "rocksdict",
    "bytewax": "bytewax",
    "aiohttp": "aiohttp",
    "uvloop": "uvloop",
    "cryptography": "cryptography",
}
"""What has a compiled part, which a foreign processor or libc does not load."""
_CGROUP_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def look_at_python() -> Finding:
    """Judges the version of Python."""
    running = sys.version_info[:2]
    text = f"{sys.version.split()[0]} at {sys.executable}"
    if running in SUPPORTED:
        return ok("python", text)
    return failed("python", text, "use 3.11 or 3.12: Bytewax has no wheels for others")


def look_at_libraries() -> Finding:
    """Imports what has a compiled part, and compares every installed version with the lock."""
    broken = []
    for distribution, module in _MODULES.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what would end `up`
            broken.append(f"{distribution} ({error})")
    if broken:
        return failed(
            "libraries", f"cannot be loaded: {', '.join(broken)}", "delete .venv and run ./hooktide again"
        )
    locked = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    others = []
    count = 0
    for package in locked:
        try:
            installed = metadata.version(package["name"])
        except metadata.PackageNotFoundError:
            continue  # of a group or a platform that is not this one; what `up` imports was imported above
        count += 1
        if installed != package["version"]:
            others.append(f"{package['name']} {installed} instead of {package['version']}")
    if others:
        some = ", ".join(others[:3]) + (" and more" if len(others) > 3 else "")
        return warning("libraries", f"not as locked: {some}", "delete .venv and run ./hooktide again")
    return ok("libraries", f"{count} as locked")


def look_at_clock(data: Path) -> Finding:
    """Judges the clock by what can be proven, without opening the data directory's log.

    Args:
        data: the data directory, which need not exist.
    """
    complaint = Clock(ScheduleClock.resume(data)).objection()
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if complaint is not None:
        return failed("clock", complaint, "receivers refuse signatures that are five minutes off")
    if is_kept_in_step_by_ntp():
        return ok("clock", f"{now}, kept by NTP")
    return warning(
        "clock",
        f"{now}; the kernel does not say that NTP keeps it",
        "in a container the host keeps it: look there; elsewhere start NTP",
    )


def look_at_descriptors(slots: int, shards: int) -> Finding:
    """Works out how many requests at once the limit of open files allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    try:
        plan = plan_descriptors(slots, limit, shards).slot_plan
    except Refused as error:
        return failed("descriptors", f"{limit} are too few", str(error))
    text = f"{limit} allow {plan.slots} requests at once"
    if plan.slots < 64:
        return failed("descriptors", text, "raise the hard limit (ulimit -Hn) to 20,000")
    if plan.is_lowered:
        return warning(
            "descriptors", f"{text}, {slots} are wanted", "raise the hard limit (ulimit -Hn) to 20,000"
        )
    return ok("descriptors", text)


def look_at_memory() -> Finding:
    """Judges the memory that is free, under the container's limit when there is one."""
    free_mb = _free_mb()
    text = f"{free_mb:,} MB free"
    if free_mb < MEMORY_MB_MIN:
        return failed("memory", text, f"free {MEMORY_MB_MIN} MB: an idle process has about 250")
    if free_mb < MEMORY_MB_GOOD:
        return warning("memory", text, "enough to try it; give it 1 GB for real traffic")
    return ok("memory", text)


def _free_mb() -> int:
    with Path("/proc/meminfo").open(encoding="ascii") as lines:
        facts = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB\n")}
    free_mb = facts.get("MemAvailable", os.sysconf("SC_PHYS_PAGES") * 4) // 1_024
    for name in _CGROUP_LIMITS:
        try:
            limit = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if limit.isdigit():
            free_mb = min(free_mb, int(limit) >> 20)
    return free_mb
