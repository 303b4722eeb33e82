"""Measure nbd-gateway beside other NBD proxies and servers, on this machine.

Each part has its paths, and each job goes through all of them in turn, round by round, in an order that alternates, so
that what the machine does besides meets all of them alike. Printed are medians over the rounds, how far the rounds are
apart, and ratios, each made within one round. CPU is user and system time of a process, divided by the requests that were
answered; it depends less than the rate on how busy the machine is. A run in which something else uses the machine is
repeated; if that does not help, its row is marked and the output ends with a warning.

Needs a gateway and nbd-load, built with `cargo build --release`, nbdkit as the server, and the peers of the parts that are
chosen. Exits 0, 1 if a measurement failed, or 2 if what it needs is missing.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import signal
import sys
import tempfile

from . import grids, plots, report, tables
from .load import JOBS
from .machine import Failed, describe, missing, note
from .rounds import Grid, Rounds

ROOT = pathlib.Path(__file__).resolve().parents[3]
FAIRNESS = "fairness"
PATHS = ["direct", "gateway", "before", "haproxy", "haproxy-128k", "nbdkit", "qemu", "stunnel", "gateway-plain"]
PATHS += ["gateway-all", "gateway-memory", "gateway-file", "before-memory", "before-file", "nbdkit-memory", "nbdkit-file", "qemu-nbd"]
# Which program a path needs.
PROGRAM = {
    "haproxy": "haproxy",
    "haproxy-128k": "haproxy",
    "qemu": "qemu-storage-daemon",
    "stunnel": "stunnel",
    "qemu-nbd": "qemu-nbd",
}


@dataclasses.dataclass
class Part:
    measure: object
    about: str
    needs: tuple = ("nbdkit",)
    peers: tuple = ()


PROXIES = ("haproxy", "haproxy-128k")
PARTS = {
    "proxies": Part(grids.proxies, "jobs through proxies, in front of the same server", peers=(*PROXIES, "qemu")),
    "tls": Part(grids.tls, "the same with TLS", ("nbdkit", "openssl"), (*PROXIES, "stunnel")),
    "disks": Part(grids.disks, "disks in memory and in files, without a server behind", peers=("qemu-nbd",)),
    "growth": Part(grids.growth, "writes past the end of a disk that grows, and of one of full size", ()),
    "features": Part(grids.features, "the gateway with limits, rates, quota, rules and log, and without"),
    "link": Part(grids.link, "reads in sequence over a link of 10 ms"),
    "depths": Part(grids.depths, "CPU against requests in flight", peers=PROXIES),
    "sizes": Part(grids.sizes, "CPU against the size of requests", peers=PROXIES),
    "sessions": Part(grids.sessions, "CPU against the number of clients", peers=PROXIES),
    "exports": Part(tables.exports, "start, /metrics, memory, reload and CPU against the number of exports", ()),
    "idle": Part(tables.idle, "memory of clients that ask for nothing"),
    FAIRNESS: Part(tables.fairness, "latency of a client beside a heavy one; only if named"),
}


def names(known):
    def parse(text):
        asked = text.split(",")
        if unknown := [name for name in asked if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are: {', '.join(known)}")
        return asked

    return parse


def at_least(least, kind):
    def parse(text):
        value = kind(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    return parse


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    program, path = parser.add_argument, pathlib.Path
    program("parts", nargs="*", metavar="PART", help=f"default: all but {FAIRNESS}; --list tells them")
    program("--list", action="store_true", help="tell the parts, jobs and paths there are")
    program("--quick", action="store_true", help="in about two minutes: fewer jobs, two short rounds; only a first look")
    program("--rounds", type=at_least(1, int), help="rounds of each job (default: 5)")
    program("--seconds", type=at_least(0.05, float), help="length of each run (default: 2)")
    program("--jobs", type=names(list(JOBS)), metavar="JOB,..", help="only these, in proxies, tls and disks")
    program("--only", type=names(PATHS), metavar="PATH,..", help="only these paths")
    program("--sessions", type=at_least(0, int), help="idle ones (default: 10000; 0: none)")
    program("--fairness", action="store_true", help=f"the same as the part {FAIRNESS}")
    program("--fio", action="store_true", help="ask with fio, not with nbd-load, in proxies and disks")
    program("--binary", type=path, default=ROOT / "target/release/nbd-gateway", help="the gateway")
    program("--before", type=path, metavar="BINARY", help="another gateway, measured beside it as `before`")
    program("--load", type=path, default=ROOT / "target/release/nbd-load", help="nbd-load")
    program("--busy", type=at_least(0, float), default=5, metavar="PERCENT", help="of the machine, that others may use (5)")
    program("--dir", type=path, help="where disks in files are made (default: the directory for temporary files)")
    program("--json", type=path, metavar="FILE", help="write everything measured there, too")
    program("--plots", type=path, metavar="DIR", help="write curves there, as SVG; needs gnuplot")
    program("--markdown", action="store_true", help="print tables for documents")
    ask = parser.parse_args()
    ask.parts += [FAIRNESS] * (ask.fairness and FAIRNESS not in ask.parts)
    if unknown := [name for name in ask.parts if name not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    ask.parts = [name for name in PARTS if name in ask.parts or (not ask.parts and name != FAIRNESS)]
    ask.busy /= 100
    ask.rounds = ask.rounds or (2 if ask.quick else 5)
    ask.seconds = ask.seconds or (0.3 if ask.quick else 2)
    ask.sessions = (1000 if ask.quick else 10000) if ask.sessions is None else ask.sessions
    ask.span = (128 if ask.quick else 1024) << 20
    return ask


def listed():
    for name, part in PARTS.items():
        print(f"{name:10} {part.about}")
    print(f"\njobs: {' '.join(JOBS)}\npaths: {' '.join(PATHS)}")


def equipped(ask):
    """What of the programs is there; `None` if what the chosen parts cannot do without is missing."""
    for file in [ask.binary, ask.load, *([ask.before] if ask.before else [])]:
        if not file.exists():
            note(f"{file} is missing: cargo build --release")
            return None
    parts = [PARTS[name] for name in ask.parts]
    needed = [program for part in parts for program in part.needs]
    needed += ["fio"] * ask.fio + ["gnuplot"] * bool(ask.plots)
    ways = {path for part in parts for path in part.peers if not ask.only or path in ask.only}
    programs = list(dict.fromkeys([*needed, *(PROGRAM[path] for path in PROGRAM if path in ways)]))
    absent = missing(programs)
    if set(absent) & set(needed):
        return None
    left_out = [path for path in ways if PROGRAM[path] in absent]
    ask.only = [path for path in ask.only or PATHS if path not in left_out] if left_out else ask.only
    ask.left_out = sorted(left_out)
    return [program for program in programs if program not in absent]


def ended(number, _):
    """Ended from outside, it ends what it has started."""
    # Nothing ends the ending.
    for another in [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]:
        signal.signal(another, signal.SIG_IGN)
    sys.exit(128 + number)


def main():
    ask = arguments()
    if ask.list:
        listed()
        return 0
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    # A shell may have started it with SIGINT ignored.
    for number in [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]:
        signal.signal(number, ended)
    programs = equipped(ask)
    if programs is None:
        return 2
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # For clients, what is kept and what is there besides put aside.
    ask.descriptors = hard - 1000
    rounds, machine, results = Rounds(ask), describe(programs, ask.binary), []
    for name in ask.parts:
        found = []
        with tempfile.TemporaryDirectory(prefix="nbd-gateway-bench-", dir=ask.dir) as scratch:
            try:
                found = PARTS[name].measure(ask, rounds, pathlib.Path(scratch))
                if not found:
                    note(f"{name}: nothing is left to measure")
            except (Failed, OSError) as failure:
                rounds.failed(f"{name}: {failure}")
        results += found
        # At once, so that a run that is ended leaves what it has.
        save(ask, machine, rounds, results)
        show(ask, rounds, found)
    warning = rounds.warning()
    if ask.markdown:
        print(report.markdown(results, ask, machine, warning))
    else:
        print(report.conditions(ask, machine))
    for path in ask.left_out:
        note(f"left out, not installed: {path}")
    for failure in rounds.failures:
        note(f"failed: {failure}")
    if warning:
        note(warning)
    return 1 if rounds.failures else 0


def show(ask, rounds, results):
    for result in results:
        if not ask.markdown:
            print(report.plain(result, ask.busy) + "\n", flush=True)
        if ask.plots and isinstance(result, Grid) and result.x:
            ask.plots.mkdir(parents=True, exist_ok=True)
            try:
                for file in plots.draw(result, ask.plots):
                    note(f"drew {file}")
            except Failed as failure:
                rounds.failed(f"{result.name}: {failure}")


def save(ask, machine, rounds, results):
    if ask.json:
        parts = {result.name: {"title": result.title, "samples": result.raw()} for result in results}
        whole = {"machine": machine, "rounds": ask.rounds, "seconds": ask.seconds, "parts": parts}
        whole |= {"runs": rounds.runs, "disturbed": rounds.disturbed, "failures": rounds.failures}
        ask.json.write_text(json.dumps(whole, indent=1) + "\n")
