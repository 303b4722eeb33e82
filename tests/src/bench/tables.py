"""Parts that measure something else than requests: many exports, idle clients, fairness."""

import contextlib
import threading
import time
import urllib.request

from .load import Load, NbdLoad, Target, fill
from .machine import Failed, note
from .rounds import Grid, Path, Row, Table, through
from .servers import free_port, gateway, greeting, nbdkit

# A light client is to keep its median latency within this ratio.
FAIR = 2.0
LIGHT, HEAVY = Load(), Load(depth=32, sessions=8)


SIZE = 16 << 20


def export(name):
    return f'[[export]]\nname = "{name}"\nbackend = "memory:"\nsize = {SIZE}\n'


def ask_admin(port, path, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    request.add_header("Authorization", "Bearer bench")
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read()


class Greetings:
    """The longest that a client waits for its greeting, as long as the `with` block lasts."""

    def __init__(self, port):
        self.port, self.longest, self.over = port, 0.0, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def watch(self):
        while not self.over.is_set():
            begun = time.monotonic()
            with contextlib.suppress(OSError, Failed):
                greeting(self.port)
            self.longest = max(self.longest, time.monotonic() - begun)
            time.sleep(0.002)


def exports(ask, rounds, scratch):
    """A gateway with so many exports: its start, a scrape, requests, a reload."""
    columns = [
        ("ready", "ready after s", "{:.2f}"),
        ("ready_cpu", "its CPU s", "{:.2f}"),
        ("rss", "MiB then", "{:,.0f}"),
        ("open", "clients", "{:,.0f}"),
        ("open_rss", "MiB with them", "{:,.0f}"),
        ("scrape", "/metrics ms", "{:,.0f}"),
        ("scrape_cpu", "its CPU ms", "{:,.0f}"),
        ("scrape_kib", "its KiB", "{:,.0f}"),
        ("greeting", "longest greeting ms meanwhile", "{:,.1f}"),
        ("reload", "reload that adds one ms", "{:,.0f}"),
        ("reload_cpu", "its CPU ms", "{:,.0f}"),
    ]
    counts = [1, 100, 1000] if ask.quick else [1, 100, 1000, 10000]
    table = Table("exports", "Exports of one gateway (embedded disks in memory)", columns)
    rows = [Row(f"{n} exports", Load(8, writes=50, sessions=16, exports=n, span=SIZE), n, "4 KiB, mixed") for n in counts]
    title = "Requests to so many exports, from 16 clients at depth 8"
    grid = Grid("exports-requests", title, rows, ["gateway"], [], "exports")
    for turn in range(ask.rounds):
        for row in rows if turn % 2 == 0 else reversed(rows):
            note(f"exports: {row.name}, round {turn + 1} of {ask.rounds}")
            try:
                values, sample = many_exports(ask, rounds, scratch, row)
                table.rows.setdefault(row.name, []).append(values)
                grid.samples.setdefault((row.name, "gateway"), {})[turn] = sample
            except (Failed, OSError) as failure:
                rounds.failed(f"{row.name}: {failure}")
    table.rows = {row.name: table.rows[row.name] for row in rows if row.name in table.rows}
    return [table, grid]


def many_exports(ask, rounds, scratch, row):
    count = int(row.x)
    sections = "".join(export(f"e{number}") for number in range(count))
    admin, begun = free_port(), time.monotonic()
    server = gateway("gateway", scratch, ask.binary, sections, admin=admin)
    server.probe = lambda: ask_admin(admin, "/readyz")
    with server:
        values = {"ready": time.monotonic() - begun, "ready_cpu": server.cpu()}
        values["rss"] = server.memory()["VmRSS"] / 2**20
        target = Target(server.port, "e{}")
        # One client of each export, if there are descriptors for all of them and for the disks.
        values["open"] = min(count, ask.descriptors // 2)
        with NbdLoad(ask, target, Load(sessions=values["open"], exports=count), 0):
            values["open_rss"] = server.memory()["VmRSS"] / 2**20
            with Greetings(server.port) as greetings:
                then, cpu = time.monotonic(), server.cpu()
                text = ask_admin(admin, "/metrics")
                values |= {"scrape": (time.monotonic() - then) * 1e3, "scrape_cpu": (server.cpu() - cpu) * 1e3}
            values |= {"scrape_kib": len(text) / 1024, "greeting": greetings.longest * 1e3}
        path = Path("gateway", target, server)
        sample = rounds.undisturbed(lambda: through(ask, path, row.load))
        server.config.write_text(server.config.read_text() + export("more"))
        then, cpu = time.monotonic(), server.cpu()
        ask_admin(admin, "/api/v1/reload", "POST")
        values |= {"reload": (time.monotonic() - then) * 1e3, "reload_cpu": (server.cpu() - cpu) * 1e3}
    return values, sample


def idle(ask, rounds, scratch):
    columns = [
        ("opened", "opened per s", "{:,.0f}"),
        ("cpu", "CPU us to open one", "{:,.0f}"),
        ("one", "MiB with one", "{:.1f}"),
        ("rss", "MiB with all", "{:.1f}"),
        ("each", "KiB for each", "{:.1f}"),
        ("left", "MiB after they left", "{:.1f}"),
        ("peak", "MiB at most", "{:.1f}"),
    ]
    count = min(ask.sessions, ask.descriptors)
    table = Table("idle", "Idle clients of one export of a server", columns)
    for turn in range(ask.rounds if count else 0):
        note(f"idle: {count} sessions, round {turn + 1} of {ask.rounds}")
        try:
            with contextlib.ExitStack() as running:
                back = running.enter_context(nbdkit("the server", scratch, "memory", "1M"))
                server = running.enter_context(gateway("gateway", scratch, ask.binary, f"nbd://127.0.0.1:{back.port}"))
                with NbdLoad(ask, Target(server.port), Load(), 0):
                    one, cpu = server.memory()["VmRSS"], server.cpu()
                    with NbdLoad(ask, Target(server.port), Load(sessions=count), 0) as all_of_them:
                        opened, cpu, many = all_of_them.opened, server.cpu() - cpu, server.memory()["VmRSS"]
                    # It gives memory back a second after half of them have left.
                    time.sleep(max(ask.seconds, 2))
                    left = server.memory()
            values = {"opened": count / opened, "cpu": cpu * 1e6 / count, "each": (many - one) / count / 1024}
            sizes = {"one": one, "rss": many, "left": left["VmRSS"], "peak": left["VmHWM"]}
            values |= {name: size / 2**20 for name, size in sizes.items()}
            table.rows.setdefault(f"{count} sessions", []).append(values)
        except (Failed, OSError) as failure:
            rounds.failed(f"idle, {count} sessions: {failure}")
    return [table]


def fairness(ask, rounds, scratch):
    """The median latency of a light client, alone and beside a heavy one."""
    columns = [("p50", "p50 us", "{:,.0f}"), ("alone", "to alone", "{:.2f}"), ("busy", "to as busy", "{:.2f}")]
    table = Table("fairness", "A light client (depth 1) beside a heavy one (8 sessions, depth 32)", columns)
    with contextlib.ExitStack() as running:
        size = str(ask.span)
        back, elsewhere = (running.enter_context(nbdkit("the server", scratch, "memory", size)) for _ in range(2))
        exports = "".join(
            f'[[tenant]]\nname = "{name}"\n'
            f'[[export]]\nname = "{name}"\ntenant = "{name}"\nbackend = "nbd://127.0.0.1:{back.port}"\n'
            for name in ["light", "heavy"]
        )
        server = gateway("gateway", scratch, ask.binary, exports, more="[runtime]\nthreads = 1\n")
        port = running.enter_context(server).port
        fill(ask, Target(back.port))
        light = Target(port, "light")
        others = {
            "alone": None,
            "heavy client past the gateway": Target(elsewhere.port),
            "heavy tenant on the shard": Target(port, "heavy"),
            "heavy client on the lane": light,
        }
        for turn in range(ask.rounds):
            note(f"fairness, round {turn + 1} of {ask.rounds}")
            found = {name: beside(ask, other, light) for name, other in others.items()}
            for name, p50 in found.items():
                busy = p50 / found["heavy client past the gateway"]
                table.rows.setdefault(name, []).append({"p50": p50, "alone": p50 / found["alone"], "busy": busy})
    medians = {name: table.spread(name, "p50").median for name in table.rows}
    bound = FAIR * max(medians["alone"], medians["heavy client past the gateway"])
    for name in [name for name, p50 in medians.items() if p50 > bound]:
        rounds.failed(f"beside a {name} the median is more than {FAIR:g} times what it is alone or on as busy a machine")
    return [table]


def beside(ask, heavy, light):
    """The median latency of a light client while a heavy one works elsewhere, in microseconds."""
    with contextlib.ExitStack() as running:
        if heavy:
            other = running.enter_context(NbdLoad(ask, heavy, HEAVY, ask.seconds + 60))
            running.callback(other.process.kill)
            other.begin()
            # It fills its queues first.
            time.sleep(min(1, ask.seconds))
        told = running.enter_context(NbdLoad(ask, light, LIGHT, ask.seconds)).run()
        if heavy and other.process.poll() is not None:
            raise Failed(f"the heavy client ended early: {other.process.stderr.read().strip()}")
    return told["p50"] * 1e6
