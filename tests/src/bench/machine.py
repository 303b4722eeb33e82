"""This machine: what it is, what is installed, and how much of it something else uses."""

import os
import pathlib
import platform
import re
import resource
import shutil
import subprocess
import sys
import time

# Program: Debian package, and how the program tells its version.
PROGRAMS = {
    "nbdkit": ("nbdkit", "--version"),
    "haproxy": ("haproxy", "-v"),
    "stunnel": ("stunnel4", "-version"),
    # In the first in Debian 12, in the second later.
    "qemu-storage-daemon": ("qemu-system-common qemu-utils", "--version"),
    "qemu-nbd": ("qemu-utils", "--version"),
    "openssl": ("openssl", "version"),
    "fio": ("fio", "--version"),
    "gnuplot": ("gnuplot-nox", "--version"),
}


class Failed(Exception):
    """A measurement, or a program that it needs, did not work."""


def note(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def missing(programs):
    """Those that are not installed; says once how to get them."""
    absent = [program for program in programs if not shutil.which(program)]
    if absent:
        packages = dict.fromkeys(PROGRAMS[program][0] for program in absent)
        note(f"not installed: {', '.join(absent)}; run: apt-get install {' '.join(packages)}")
    return absent


def describe(programs, gateway):
    """The machine and the versions of what is measured."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    versions = {}
    for program, option in [*((p, PROGRAMS[p][1]) for p in programs), (str(gateway), "--version")]:
        told = subprocess.run([program, option], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if found := re.search(r"\d+\.\d+(\.\d+)?", told.stdout + told.stderr):
            versions[pathlib.Path(program).name] = found[0]
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": cpu[1] if cpu else platform.machine(),
        "kernel": platform.release(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions,
    }


def cpu_seconds(pid):
    """User and system time of a process, of its threads that have ended too."""
    # The kernel's clock of that process, to the nanosecond: /proc/PID/stat counts in hundredths of a second.
    return time.clock_gettime(~pid << 3 | 2)


def memory(pid):
    """VmRSS and VmHWM in bytes."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE))
    return {name: int(value) * 1024 for name, value in found.items()}


class Watch:
    """From now on: the share of all processors' time that neither this benchmark nor what it has started got."""

    def __init__(self, own):
        self.own = own
        self.before = self.look()

    def look(self):
        fields = pathlib.Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
        user, nice, system, _, _, _, _, steal = (int(field) for field in fields)
        waited = resource.getrusage(resource.RUSAGE_CHILDREN)
        mine = time.process_time() + waited.ru_utime + waited.ru_stime + self.own()
        # Interrupts are nobody's, and mostly the benchmark's own packets.
        work = (user + nice + system + steal) / os.sysconf("SC_CLK_TCK")
        return work, mine, sum(map(int, fields)) / os.sysconf("SC_CLK_TCK")

    def others(self):
        work, mine, whole = (now - then for now, then in zip(self.look(), self.before))
        return max(0.0, work - mine) / max(whole, 0.01)
