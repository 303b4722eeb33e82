"""Parts in which jobs go through several paths to the same kind of disk."""

import contextlib
import dataclasses
import subprocess

from .load import JOBS, KI, MI, Load, Target, fill, opens
from .machine import Failed
from .rounds import Grid, Path, Row, through
from .servers import free_port, gateway, haproxy, nbdkit, qemu_nbd, qemu_storage_daemon, relay, stunnel

GATEWAY, BEFORE, DIRECT = "gateway", "before", "direct"
LARGE_BUFFERS = 131072
# Each way of the link, in milliseconds.
DELAY = 5


def jobs(ask, quick):
    wanted = ask.jobs or (quick if ask.quick else JOBS)
    return [Row(name, load) for name, load in JOBS.items() if name in wanted]


def points(ask, values, quick, name, loads):
    """A row for each value and each kind of load: `loads` gives one of a value."""
    values = quick if ask.quick else values
    return [Row(name(value, kind), load(value), value, kind) for kind, load in loads.items() for value in values]


def binaries(ask):
    return {GATEWAY: ask.binary, **({BEFORE: ask.before} if ask.before else {})}


def measured(ask, rounds, name, title, rows, ways, *, back=(), pairs=None, x="", fio=False):
    """Starts all of `ways` (name: what makes a Server, and options of TLS), and sends all rows through each."""
    if not ways or not rows:
        return []
    paths = {}
    with contextlib.ExitStack() as running:
        servers = tuple(running.enter_context(server) for server in back)
        for server in servers:
            fill(ask, Target(server.port))
        for way, (make, tls) in ways.items():
            if make is None:
                paths[way] = Path(way, Target(servers[0].port), None, servers)
                continue
            try:
                server = running.enter_context(make())
                paths[way] = Path(way, Target(server.port, tls=tls), server, servers)
                if not servers:
                    fill(ask, paths[way].target)
            except (Failed, OSError) as failure:
                rounds.failed(f"{name}: {failure}")
        if pairs is None:
            pairs = [(GATEWAY, way) for way in paths if way != GATEWAY] if GATEWAY in paths else []
        grid = Grid(name, title, rows, list(paths), [pair for pair in pairs if set(pair) <= set(paths)], x)
        return [rounds.fill(grid, lambda row, way: through(ask, paths[way], row.load, fio))]


def chosen(ask, ways):
    return {name: way for name, way in ways.items() if not ask.only or name in ask.only}


def plain_ways(ask, scratch, back, names, shared=None):
    """`shared` is the server behind paths that have few connections to it for all clients, if it is not `back`."""
    uri = f"nbd://127.0.0.1:{(shared or back).port}"
    made = {
        DIRECT: None,
        **{
            name: lambda name=name, binary=binary: gateway(name, scratch, binary, uri)
            for name, binary in binaries(ask).items()
        },
        "haproxy": lambda: haproxy("haproxy", scratch, back.port),
        "haproxy-128k": lambda: haproxy("haproxy-128k", scratch, back.port, bufsize=LARGE_BUFFERS),
        "nbdkit": lambda: nbdkit("nbdkit", scratch, "nbd", f"uri=nbd://127.0.0.1:{back.port}"),
        "qemu": lambda: qemu_storage_daemon("qemu", scratch, back.port),
    }
    return chosen(ask, {name: (made[name], ()) for name in made if name in [*names, BEFORE]})


def memory_server(ask, scratch, *options):
    return nbdkit("the server", scratch, "memory", str(ask.span), options=options)


NAMES = ["direct", "gateway", "haproxy", "haproxy-128k"]


def proxies(ask, rounds, scratch):
    back = memory_server(ask, scratch)
    ways = plain_ways(ask, scratch, back, [*NAMES, "nbdkit", "qemu"])
    rows = jobs(ask, ["r4k-qd1", "r4k-qd32", "rw4k-16x8", "r256k-qd8", "w256k-qd8"])
    title = "Proxies in front of the same server"
    return measured(ask, rounds, "proxies", title, rows, ways, back=[back], fio=ask.fio)


def curves(ask, rounds, scratch, name, title, rows, x):
    back = memory_server(ask, scratch)
    ways = plain_ways(ask, scratch, back, NAMES)
    return measured(ask, rounds, name, title, rows, ways, back=[back], x=x)


def depths(ask, rounds, scratch):
    kinds = {"reads": lambda depth: Load(depth), "writes": lambda depth: Load(depth, writes=100)}
    rows = points(ask, [1, 2, 4, 8, 16, 32, 64, 128], [1, 8, 64], lambda d, kind: f"4 KiB {kind}, depth {d}", kinds)
    return curves(ask, rounds, scratch, "depths", "Requests in flight of one client", rows, "requests in flight")


def sizes(ask, rounds, scratch):
    kinds = {
        "reads": lambda size: Load(4, size, sequential=True),
        "writes": lambda size: Load(4, size, 100, sequential=True),
    }
    values = [512, 4 * KI, 16 * KI, 64 * KI, 256 * KI, MI, 4 * MI, 16 * MI]
    rows = points(ask, values, [4 * KI, 64 * KI, MI], lambda size, kind: f"{size // KI or 0.5} KiB {kind}, depth 4", kinds)
    return curves(ask, rounds, scratch, "sizes", "Sizes of requests", rows, "bytes of a request")


def sessions(ask, rounds, scratch):
    kinds = {
        "depth 1, reads": lambda count: Load(1, sessions=count),
        "depth 8, mixed": lambda count: Load(8, writes=50, sessions=count),
    }
    rows = points(ask, [1, 16, 64, 256, 1024, 4096], [1, 64, 1024], lambda n, kind: f"{n} sessions, {kind}", kinds)
    # Each path has the server that suits it: nbdkit has 16 threads for each connection unless it is told otherwise, which
    # is good where one connection has all requests and bad where each client has its own.
    each, shared = memory_server(ask, scratch, "--threads=1"), memory_server(ask, scratch)
    ways = plain_ways(ask, scratch, each, NAMES, shared)
    title = "Clients on one export, 4 KiB requests"
    return measured(ask, rounds, "sessions", title, rows, ways, back=[each, shared], x="sessions")


def certificates(scratch):
    """A CA, and what it says of `localhost`, as every server here finds it."""
    folder = scratch / "tls"
    folder.mkdir()
    new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 30 -subj /CN=localhost".split()
    ca = "-addext keyUsage=keyCertSign,cRLSign -keyout ca-key.pem -out ca-cert.pem".split()
    server = "-CA ca-cert.pem -CAkey ca-key.pem -extensions usr_cert -addext subjectAltName=DNS:localhost".split()
    server += "-addext keyUsage=digitalSignature,keyEncipherment -addext extendedKeyUsage=serverAuth".split()
    server += "-keyout server-key.pem -out server-cert.pem".split()
    for options in [ca, server]:
        command = ["openssl", "req", "-x509", *new, *options]
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"openssl req: {done.stderr.strip()[-800:]}")
    certificate, key = folder / "server-cert.pem", folder / "server-key.pem"
    (folder / "both.pem").write_text(certificate.read_text() + key.read_text())
    return folder


def tls(ask, rounds, scratch):
    folder = certificates(scratch)
    back = memory_server(ask, scratch)
    within = ("--tls=start", f"--ca={folder}/ca-cert.pem")
    outside = ("--tls=first", f"--ca={folder}/ca-cert.pem")
    uri = lambda: f"nbd://127.0.0.1:{back.port}"
    listener = f'tls = "require"\ntls-certificates = "{folder}"\ntls-verify-peer = false'

    def whole(make, options):
        """A server that is ready as soon as a session can be opened."""

        def server():
            made = make()
            made.probe = lambda: opens(ask, Target(made.port, tls=options))
            return made

        return server, options

    bind = f"ssl crt {folder}/both.pem ssl-min-ver TLSv1.3"
    ways = {
        name: whole(lambda name=name, binary=binary: gateway(name, scratch, binary, uri(), listener), within)
        for name, binary in binaries(ask).items()
    }
    pair = (folder / "server-cert.pem", folder / "server-key.pem")
    secure = ["--tls=require", f"--tls-certificates={folder}"]
    buffers = {"haproxy": None, "haproxy-128k": LARGE_BUFFERS}
    for name, size in buffers.items():
        make = lambda name=name, size=size: haproxy(name, scratch, back.port, bufsize=size, bind=bind)
        ways[name] = whole(make, outside)
    ways["stunnel"] = whole(lambda: stunnel("stunnel", scratch, back.port, *pair), outside)
    ways["nbdkit"] = whole(lambda: nbdkit("nbdkit", scratch, "nbd", f"uri={uri()}", options=secure), within)
    ways["gateway-plain"] = (lambda: gateway("gateway-plain", scratch, ask.binary, uri()), ())
    rows = jobs(ask, ["r4k-qd1", "r4k-qd32", "r256k-qd8", "w256k-qd8"])
    title = "TLS on the clients' side, plain to the same server"
    return measured(ask, rounds, "tls", title, rows, chosen(ask, ways), back=[back])


def disks(ask, rounds, scratch):
    def file(name):
        made = scratch / f"{name}.img"
        with open(made, "wb") as disk:
            disk.truncate(ask.span)
        return made

    def embedded(name, binary, backend):
        section = f'[[export]]\nname = ""\nbackend = "{backend}"\nsize = {ask.span}\n'
        return lambda: gateway(name, scratch, binary, section)

    ways = {}
    for name, binary in binaries(ask).items():
        ways[f"{name}-memory"] = embedded(f"{name}-memory", binary, "memory:")
        ways[f"{name}-file"] = embedded(f"{name}-file", binary, f"file:{scratch}/{name}.img")
    ways["nbdkit-memory"] = lambda: memory_server(ask, scratch)
    ways["nbdkit-file"] = lambda: nbdkit("nbdkit-file", scratch, "file", str(file("nbdkit")))
    ways["qemu-nbd"] = lambda: qemu_nbd("qemu-nbd", scratch, file("qemu"))
    pairs = [(f"{GATEWAY}-{kind}", f"{other}-{kind}") for kind in ["memory", "file"] for other in ["nbdkit", BEFORE]]
    pairs.append((f"{GATEWAY}-file", "qemu-nbd"))
    rows = jobs(ask, ["r4k-qd1", "r4k-qd32", "w4k-qd32", "r256k-qd8", "w256k-qd8"])
    ways = chosen(ask, {name: (make, ()) for name, make in ways.items()})
    title = "Disks of the gateway's own, beside other servers of memory and files"
    return measured(ask, rounds, "disks", title, rows, ways, pairs=pairs, fio=ask.fio)


def features(ask, rounds, scratch):
    """All that may cost something for each request, with bounds that are never reached."""
    back, admin = memory_server(ask, scratch), free_port()
    uri = f"nbd://127.0.0.1:{back.port}"
    io = 'io = { iops = "100000000/s", bandwidth = "1TiB/s" }\n'
    all_on = (
        '[[tenant]]\nname = "blue"\nquota = "10TiB"\nclients = [{ address = "127.0.0.0/8" }]\n'
        f'[tenant.limits]\n{io}session-{io}'
        f'[[export]]\nname = ""\ntenant = "blue"\nbackend = "{uri}"\nmax-size = "1TiB"\n[export.limits]\n{io}session-{io}'
    )
    ways = {
        GATEWAY: lambda: gateway(GATEWAY, scratch, ask.binary, uri),
        "gateway-all": lambda: gateway("gateway-all", scratch, ask.binary, all_on, admin=admin, level="info"),
    }
    ways = chosen(ask, {name: (make, ()) for name, make in ways.items()})
    title = "The gateway with limits, rates, quota, rules, admin interface and log, and without"
    rows = jobs(ask, ["r4k-qd1", "rw4k-16x8"])
    return measured(ask, rounds, "features", title, rows, ways, back=[back], pairs=[("gateway-all", GATEWAY)])


def link(ask, rounds, scratch):
    """Each path is one of two ways at one of two depths."""
    loads = {size: Load(size=size, sequential=True) for size in [4 * KI, 64 * KI, 256 * KI]}
    rows = [Row(f"{size // KI} KiB reads in sequence", load) for size, load in loads.items()]
    with contextlib.ExitStack() as running:
        back = running.enter_context(memory_server(ask, scratch))
        fill(ask, Target(back.port))
        far = running.enter_context(relay("the link", scratch, back.port, DELAY))
        paths = {}
        for name, binary in [(DIRECT, None), *binaries(ask).items()]:
            proxy = binary and running.enter_context(gateway(name, scratch, binary, f"nbd://127.0.0.1:{far.port}"))
            for depth in [1, 8]:
                path = Path(name, Target((proxy or far).port), proxy, (back,), (far,))
                paths[f"{name}-qd{depth}"] = path, depth
        pairs = [(f"{GATEWAY}-qd{one}", f"{DIRECT}-qd{other}") for one, other in [(1, 1), (8, 8), (1, 8)]]
        title = f"A link of {2 * DELAY} ms round trip between client or gateway and server"
        grid = Grid("link", title, rows, list(paths), pairs)

        def run(row, name):
            path, depth = paths[name]
            return through(ask, path, dataclasses.replace(row.load, depth=depth))

        return [rounds.fill(grid, run)]


def growth(ask, rounds, scratch):
    """Each run has a gateway and a disk of its own, so that it begins with an empty one."""
    loads = {"64 KiB": Load(8, 64 * KI), "1 MiB": Load(4, MI)}
    kinds = {"memory": "memory:", "file": f"file:{scratch}/growing.img"}
    rows = [
        Row(f"{kind}, writes of {size}", dataclasses.replace(load, writes=100, sequential=True, total=ask.span))
        for kind in kinds
        for size, load in loads.items()
    ]
    automatic = f'size = 4096\nmax-size = {2 * ask.span}\n[export.resize]\nautomatic = "always"\n'
    sizes = {"full-size": f"size = {2 * ask.span}\n", "default-step": automatic, "1MiB-step": automatic + 'step = "1MiB"\n'}

    def run(row, name):
        disk = kinds[row.name.partition(",")[0]]
        (scratch / "growing.img").unlink(missing_ok=True)
        exports = f'[[export]]\nname = ""\nbackend = "{disk}"\n{sizes[name]}'
        with gateway(GATEWAY, scratch, ask.binary, exports) as server:
            return through(ask, Path(name, Target(server.port), server), row.load)

    pairs = [(name, "full-size") for name in sizes if name != "full-size"]
    grid = Grid("growth", "Writes in sequence past the end of an embedded disk", rows, list(sizes), pairs)
    return [rounds.fill(grid, run)]
