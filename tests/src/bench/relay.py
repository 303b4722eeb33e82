"""Stands for a link with latency: passes bytes on between two ports, each direction late by so many milliseconds.

usage: relay.py FRONT BACK MILLISECONDS
"""

import contextlib
import queue
import socket
import sys
import threading
import time


def pump(source, sink, delay):
    """Bytes that come together stay together; 4,096 receptions are under way at most."""
    link = queue.Queue(4096)

    def deliver():
        try:
            while True:
                due, data = link.get()
                time.sleep(max(0, due - time.monotonic()))
                if not data:
                    return sink.shutdown(socket.SHUT_WR)
                sink.sendall(data)
        except OSError:
            # One side is gone; its peer is told so.
            with contextlib.suppress(OSError):
                source.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=deliver, daemon=True).start()
    data = b"not yet"
    while data:
        try:
            data = source.recv(1 << 20)
        except OSError:
            data = b""
        link.put((time.monotonic() + delay, data))


def main():
    front, back, delay = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000
    with socket.create_server(("127.0.0.1", front), backlog=128) as listener:
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", back))
            for one, other in [(client, server), (server, client)]:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=pump, args=(one, other, delay), daemon=True).start()


main()
