"""Hands sockets over as systemd does (sd_listen_fds(3)), then becomes the program.

usage: activate.py NAME=ADDRESS... -- PROGRAM [ARGUMENT...]
An address is the path of a Unix socket, or an IPv4 address, for which the kernel chooses a port; or what no service manager
should hand over: `file`, `datagram`, `connected`, `unlistened`."""

import os
import socket
import sys

end = sys.argv.index("--")
names = []
sockets = []
for word in sys.argv[1:end]:
    name, address = word.split("=", 1)
    if address == "file":
        listener = open("/dev/null")
    elif address == "datagram":
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    elif address == "connected":
        listener, other = socket.socketpair()
    elif address == "unlistened":
        listener = socket.socket(socket.AF_INET)
        listener.bind(("127.0.0.1", 0))
    elif address.startswith("/"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
    else:
        listener = socket.socket(socket.AF_INET)
        listener.bind((address, 0))
    if address.startswith("/") or address[0].isdigit():
        listener.listen()
    names.append(name)
    sockets.append(listener)

# First out of the way of the numbers that they are to have.
high = [os.dup2(listener.fileno(), 100 + at) for at, listener in enumerate(sockets)]
for at, descriptor in enumerate(high):
    os.dup2(descriptor, 3 + at, inheritable=True)
    os.close(descriptor)

environment = dict(os.environ)
environment["LISTEN_PID"] = str(os.getpid())
environment["LISTEN_FDS"] = str(len(sockets))
environment["LISTEN_FDNAMES"] = ":".join(names)
os.execve(sys.argv[end + 1], sys.argv[end + 1:], environment)
