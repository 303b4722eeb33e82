"""Measurements in rounds: in each, every path has its turn, in an order that alternates, so that what the machine does besides
meets all of them alike."""

import dataclasses
import statistics
import time

from .load import Fio, Load, NbdLoad, Target
from .machine import Failed, Watch, note
from .servers import Server

# How often a run is repeated at once in which something else used the machine.
REPEATS = 2


@dataclasses.dataclass
class Path:
    """A way from the client to the data, and the processes on it; CPU time of those in `uncounted` is not of interest."""

    name: str
    target: Target
    proxy: Server | None = None
    servers: tuple = ()
    uncounted: tuple = ()


@dataclasses.dataclass
class Row:
    """A job, and where it stands in a plot: on the curves of `series`, at `x`."""

    name: str
    load: Load
    x: float | None = None
    series: str = ""


@dataclasses.dataclass
class Sample:
    iops: float
    mib: float  # a second
    p50: float  # microseconds, as all times here
    p99: float
    longest: float
    proxy: float | None  # CPU of the proxy for each request
    server: float | None  # and of the server behind it
    both: float
    others: float  # share of the machine that something else used
    seconds: float
    cipher: str = ""


@dataclasses.dataclass
class Spread:
    """The median of some values, the least and the greatest."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values):
        values = [value for value in values if value is not None]
        return cls(statistics.median(values), min(values), max(values)) if values else None


@dataclasses.dataclass
class Grid:
    """Every row through every path. `pairs` are the paths to be compared, as (this, with that)."""

    name: str
    title: str
    rows: list
    paths: list
    pairs: list
    x: str = ""  # what a plot's axis shows
    samples: dict = dataclasses.field(default_factory=dict)  # (row, path): {round: Sample}

    def of(self, row, path, field):
        return {turn: getattr(s, field) for turn, s in self.samples.get((row, path), {}).items()}

    def spread(self, row, path, field):
        return Spread.of(self.of(row, path, field).values())

    def ratio(self, row, this, that, field):
        """Made within each round: what disturbs a round is in both."""
        one, other = self.of(row, this, field), self.of(row, that, field)
        both = [turn for turn in one if other.get(turn) and one[turn] is not None]
        return Spread.of([one[turn] / other[turn] for turn in both])

    def has_servers(self):
        """Whether there are servers behind what is measured."""
        return any(sample.server is not None for turns in self.samples.values() for sample in turns.values())

    def disturbed(self, row, path, bound):
        return sum(share > bound for share in self.of(row, path, "others").values())

    def raw(self):
        return [
            {"job": row, "path": path, "round": turn, **dataclasses.asdict(sample)}
            for (row, path), turns in self.samples.items()
            for turn, sample in turns.items()
        ]


@dataclasses.dataclass
class Table:
    """Values of another kind: by row, as often as there are rounds. `columns` are (key, head, how to write it)."""

    name: str
    title: str
    columns: list
    x: str = ""
    rows: dict = dataclasses.field(default_factory=dict)  # row: [{key: value}]

    def spread(self, row, key):
        return Spread.of(values.get(key) for values in self.rows[row])

    def raw(self):
        return [{"row": row, "round": turn, **v} for row, rounds in self.rows.items() for turn, v in enumerate(rounds)]


def through(ask, path, load, fio=False):
    """One run of a load through a path."""
    seconds = [server.cpu for server in [path.proxy, *path.servers] if server]
    watch = Watch(lambda: sum(server.cpu() for server in Server.running))
    try:
        with (Fio if fio else NbdLoad)(ask, path.target, load, ask.seconds) as running:
            before = [cpu() for cpu in seconds]
            told = running.run()
            spent = [cpu() - then for cpu, then in zip(seconds, before)]
    except Failed:
        # Which of them has ended says more than that a connection was closed. It closes before it has ended.
        time.sleep(0.1)
        for server in [path.proxy, *path.servers, *path.uncounted]:
            if server:
                server.check()
        raise
    requests = told["requests"]
    if not requests:
        raise Failed("no request was answered")
    each = [cpu * 1e6 / requests for cpu in spent]
    return Sample(
        iops=requests / told["seconds"],
        mib=requests * load.size / told["seconds"] / 2**20,
        **{name: told[name] * 1e6 for name in ["p50", "p99", "longest"]},
        proxy=each[0] if path.proxy else None,
        server=sum(each[bool(path.proxy) :]) if path.servers else None,
        both=sum(each),
        others=watch.others(),
        seconds=told["seconds"],
        cipher=told["cipher"],
    )


class Rounds:
    """Runs what is to be measured, and remembers what failed and how many runs were disturbed."""

    def __init__(self, ask):
        self.ask, self.failures, self.runs, self.disturbed, self.most, self.repeated = ask, [], 0, 0, 0.0, 0

    def undisturbed(self, run):
        """A sample, of the quietest run if none was quiet. In all, a quarter of the runs are repeated at most."""
        self.runs += 1
        best = run()
        for _ in range(0 if self.ask.quick else REPEATS):
            if best.others <= self.ask.busy or self.repeated > self.runs / 4:
                break
            self.repeated += 1
            best = min(best, run(), key=lambda sample: sample.others)
        self.disturbed += best.others > self.ask.busy
        self.most = max(self.most, best.others)
        return best

    def fill(self, grid, run):
        """Measures a whole grid. `run` makes one sample of a row and the name of a path. A path that fails is left out of the
        rest of its row; if a process has ended, of all rows."""
        failed = set()
        for row in grid.rows:
            for turn in range(self.ask.rounds):
                for name in grid.paths if turn % 2 == 0 else reversed(grid.paths):
                    if name in failed or (row.name, name) in failed:
                        continue
                    note(f"{grid.name}: {row.name}, round {turn + 1} of {self.ask.rounds}: {name}")
                    try:
                        sample = self.undisturbed(lambda: run(row, name))
                        grid.samples.setdefault((row.name, name), {})[turn] = sample
                    except (Failed, OSError) as failure:
                        self.failed(f"{grid.name}, {row.name} through {name}: {failure}")
                        gone = any(server.process.poll() is not None for server in Server.running)
                        failed.add(name if gone else (row.name, name))
        return grid

    def failed(self, what):
        note(f"failed: {what}")
        self.failures.append(what)

    def warning(self):
        """What has to be known before these figures are believed."""
        if not self.disturbed:
            return None
        return (
            f"WARNING: in {self.disturbed} of {self.runs} runs something else used more than {self.ask.busy:.0%} of this "
            f"machine's processors, up to {self.most:.0%}. What is marked ! had such runs: do not trust it."
        )
