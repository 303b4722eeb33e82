"""Holds one thread of another process until standard input ends, as a fault in it would. usage: hold.py THREAD-ID

Needs root, or a process that allows it (PR_SET_PTRACER). The thread goes on when this process ends."""

import ctypes
import os
import sys

PTRACE_ATTACH = 16
ALL_THREADS = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
thread = int(sys.argv[1])
if libc.ptrace(PTRACE_ATTACH, thread, None, None):
    sys.exit("can't hold thread %d: %s" % (thread, os.strerror(ctypes.get_errno())))
os.waitpid(thread, ALL_THREADS)
print("held", flush=True)
sys.stdin.read()
