"""The programs that are measured, each as a `Server`: a process that listens on a port for as long as a `with` block lasts."""

import ctypes
import itertools
import pathlib
import signal
import socket
import subprocess
import sys
import time

from .machine import Failed, cpu_seconds, memory

LIBC = ctypes.CDLL(None)
NUMBERS = itertools.count()
# Sessions and their handshakes, beyond all that is measured.
GATEWAY_LIMITS = "[limits]\nsessions-per-listener = 100000\n"


def dies_with_parent():
    """However the benchmark ends, none of its servers stays behind."""
    LIBC.prctl(1, signal.SIGTERM)


class Server:
    running = []

    def __init__(self, name, command, port, scratch):
        self.name, self.command, self.port = name, [str(word) for word in command], port
        self.log = scratch / f"{next(NUMBERS)}-{name.replace(' ', '-')}.log"
        # Raises while there is no whole way through it.
        self.probe = lambda: greeting(port)

    def __enter__(self):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=dies_with_parent
            )
        Server.running.append(self)
        try:
            self.until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self not in Server.running:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        Server.running.remove(self)

    def until_ready(self):
        """A proxy may accept connections before it has a way to its server."""
        end = time.monotonic() + 60
        while True:
            self.check()
            try:
                return self.probe()
            except (OSError, Failed) as error:
                if time.monotonic() > end:
                    raise Failed(f"{self.name} does not serve on port {self.port}: {error}{self.said()}") from error
            time.sleep(0.01)

    def check(self):
        """Fails if it has ended."""
        if (code := self.process.poll()) is not None:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise Failed(f"{self.name} {how}{self.said()}")

    def said(self):
        said = self.log.read_text(errors="replace").strip()[-800:]
        return f": {' '.join(self.command)}\n{said}".rstrip()

    def cpu(self):
        try:
            return cpu_seconds(self.process.pid)
        except OSError:
            return 0.0

    def memory(self):
        return memory(self.process.pid)


def greeting(port):
    with socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.settimeout(2)
        if connection.recv(8) != b"NBDMAGIC":
            raise Failed("no NBD greeting")


def free_port():
    """A port that the kernel has just given out and taken back."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def nbdkit(name, scratch, *plugin, options=()):
    port = free_port()
    command = ["nbdkit", "--foreground", "--ipaddr=127.0.0.1", f"--port={port}", *options, *plugin]
    return Server(name, command, port, scratch)


def gateway(name, scratch, binary, exports, listener="", more="", admin=None, level="warn"):
    """`exports` are sections of a configuration, or the URI of the server of a single export; `listener` more keys of that
    section, `more` more sections, `admin` the port of the admin interface."""
    port, number = free_port(), next(NUMBERS)
    if not exports.lstrip().startswith("["):
        exports = f'[[export]]\nname = ""\nbackend = "{exports}"\n'
    (scratch / "token").write_text("bench\n")
    config = scratch / f"{number}.toml"
    interface = f'address = "127.0.0.1:{admin}"\ntoken-file = "{scratch}/token"' if admin else 'address = "off"'
    config.write_text(
        f'state = "{scratch}/{number}-state"\n[[listener]]\naddress = "127.0.0.1:{port}"\n{listener}\n'
        f'[admin]\n{interface}\n[log]\nlevel = "{level}"\n{GATEWAY_LIMITS}{more}\n{exports}'
    )
    server = Server(name, [binary, "serve", "--config", config], port, scratch)
    server.config = config
    return server


def haproxy(name, scratch, back, *, bufsize=None, bind=""):
    port = free_port()
    config = scratch / f"{next(NUMBERS)}.cfg"
    config.write_text(
        "global\n maxconn 9000\n" + (f" tune.bufsize {bufsize}\n" if bufsize else "") + "defaults\n mode tcp\n"
        " timeout connect 30s\n timeout client 1h\n timeout server 1h\n"
        f"listen nbd\n bind 127.0.0.1:{port} {bind}\n server backend 127.0.0.1:{back}\n"
    )
    return Server(name, ["haproxy", "-db", "-f", config], port, scratch)


def stunnel(name, scratch, back, certificate, key):
    port = free_port()
    config = scratch / f"{next(NUMBERS)}.conf"
    config.write_text(
        f"foreground = yes\npid =\nsyslog = no\nsslVersionMin = TLSv1.3\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"
        f"[nbd]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{back}\ncert = {certificate}\nkey = {key}\n"
    )
    return Server(name, ["stunnel", config], port, scratch)


def qemu_storage_daemon(name, scratch, back):
    port = free_port()
    node = f"driver=nbd,node-name=disk,server.type=inet,server.host=127.0.0.1,server.port={back}"
    server = f"addr.type=inet,addr.host=127.0.0.1,addr.port={port},max-connections=0"
    export = "type=nbd,id=export,node-name=disk,name=,writable=on"
    command = ["qemu-storage-daemon", "--blockdev", node, "--nbd-server", server, "--export", export]
    return Server(name, command, port, scratch)


def qemu_nbd(name, scratch, file):
    port = free_port()
    command = ["qemu-nbd", f"--port={port}", "--bind=127.0.0.1", "--persistent", "--shared=0", "--format=raw"]
    return Server(name, [*command, "--cache=writeback", file], port, scratch)


def relay(name, scratch, back, milliseconds):
    """A link that delays each direction by so much."""
    port = free_port()
    program = pathlib.Path(__file__).with_name("relay.py")
    return Server(name, [sys.executable, program, port, back, milliseconds], port, scratch)
