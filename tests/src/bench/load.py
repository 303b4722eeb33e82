"""Requests: the jobs, and what runs them (`nbd-load`, a program of this project, or fio)."""

import contextlib
import dataclasses
import json
import subprocess

from .machine import Failed
from .servers import dies_with_parent


@dataclasses.dataclass(frozen=True)
class Load:
    depth: int = 1
    size: int = 4096
    writes: int = 0  # of 100 requests
    sequential: bool = False
    sessions: int = 1
    exports: int = 1
    span: int | None = None  # bytes of the export that are used; None: what all parts use
    total: int | None = None  # bytes of each session; None: as many as there is time for


KI, MI = 1 << 10, 1 << 20
JOBS = {
    "r4k-qd1": Load(),
    "w4k-qd1": Load(writes=100),
    "rw4k-qd1": Load(writes=50),
    "r4k-qd32": Load(depth=32),
    "w4k-qd32": Load(depth=32, writes=100),
    "rw4k-qd32": Load(depth=32, writes=50),
    "rw4k-16x8": Load(depth=8, writes=50, sessions=16),
    "r256k-qd8": Load(depth=8, size=256 * KI, sequential=True),
    "w256k-qd8": Load(depth=8, size=256 * KI, sequential=True, writes=100),
    "r1m-qd8": Load(depth=8, size=MI, sequential=True),
    "w1m-qd8": Load(depth=8, size=MI, sequential=True, writes=100),
}


@dataclasses.dataclass
class Target:
    """Where requests go: a port of this host, and how."""

    port: int
    export: str = ""
    tls: tuple = ()  # options of nbd-load


class NbdLoad:
    """A run of nbd-load whose sessions are open and have not asked for anything yet. They leave at the end of the `with` block."""

    def __init__(self, ask, target, load, seconds):
        self.seconds = seconds
        self.command = [str(ask.load), f"127.0.0.1:{target.port}", "--wait", f"--export={target.export}"]
        self.command += [f"--exports={load.exports}", f"--sessions={load.sessions}", f"--depth={load.depth}"]
        self.command += [f"--size={load.size}", f"--writes={load.writes}", f"--seconds={seconds}", f"--span={load.span or ask.span}"]
        self.command += ["--sequential"] * load.sequential + [f"--total={load.total}"] * bool(load.total) + [*target.tls]

    def __enter__(self):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            self.command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=dies_with_parent
        )
        try:
            self.opened = self.told()["open_ns"] / 1e9
        except BaseException as failure:
            self.__exit__(failure)
            raise
        return self

    def __exit__(self, *failed):
        if any(failed):
            self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()

    def told(self):
        if line := self.process.stdout.readline():
            return json.loads(line)
        raise Failed(self.process.stderr.read().strip() or f"{' '.join(self.command)} said nothing")

    def begin(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def run(self):
        """Requests, how long they took, and what a request took, in seconds."""
        self.begin()
        told = self.told()
        names = {"seconds": "ns", "p50": "p50_ns", "p99": "p99_ns", "longest": "longest_ns"}
        times = {name: told[key] / 1e9 for name, key in names.items()}
        return {"requests": told["requests"], "cipher": told["cipher"], **times}


class Fio:
    """The same of fio, whose sessions are opened when it runs."""

    def __init__(self, ask, target, load, seconds):
        kind = {0: "read", 100: "write"}.get(load.writes, "rw")
        self.command = ["fio", "--name=job", "--ioengine=nbd", f"--uri=nbd://127.0.0.1:{target.port}/{target.export}"]
        self.command += [f"--rw={'' if load.sequential else 'rand'}{kind}", f"--bs={load.size}", f"--size={ask.span}"]
        self.command += [f"--iodepth={load.depth}", f"--numjobs={load.sessions}", "--time_based", f"--runtime={seconds}"]
        self.command += ["--norandommap", "--randrepeat=1", "--group_reporting", "--unified_rw_reporting=mixed"]
        self.command += ["--output-format=json"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self):
        done = subprocess.run(
            self.command, stdin=subprocess.DEVNULL, capture_output=True, text=True, preexec_fn=dies_with_parent
        )
        try:
            # Warnings may stand before the object.
            job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
        except (ValueError, LookupError):
            raise Failed(f"fio ended with {done.returncode}: {done.stderr.strip()[-800:]}") from None
        mixed = job["mixed"]
        if job["error"] or not mixed["total_ios"]:
            raise Failed(f"fio: {mixed['total_ios']} requests, error {job['error']}: {done.stderr.strip()[-800:]}")
        waits = mixed["clat_ns"]
        parts = {"p50": waits["percentile"]["50.000000"], "p99": waits["percentile"]["99.000000"], "longest": waits["max"]}
        times = {name: waited / 1e9 for name, waited in parts.items()}
        return {"requests": mixed["total_ios"], "seconds": mixed["runtime"] / 1000, "cipher": "", **times}


def opens(ask, target):
    """Raises unless a whole session can be opened, TLS included."""
    with NbdLoad(ask, target, Load(), 0):
        pass


def fill(ask, target):
    """Writes everything once, so that reads move memory that is there."""
    with NbdLoad(ask, target, Load(depth=8, size=MI, writes=100, sequential=True, total=ask.span), 0) as load:
        load.run()
