"""A client that knows nothing of sizes and never rests: writes, flushes, reads back, until it is told to stop.

usage: load.py URI OFFSET PROGRESS STOP CONTENT - a byte is appended to PROGRESS for every round; when STOP exists, what the
MiB at OFFSET has to hold is written to CONTENT. Any error, or a byte that is not what was written, is the end with status 1.
"""

import os
import sys

import nbd

uri, at, progress, stop, content = sys.argv[1:]
BLOCK, BLOCKS = 16384, 64
at = int(at)
disk = nbd.NBD()
disk.connect_uri(uri)
size = disk.get_size()
rounds = 0
with open(progress, "ab", buffering=0) as told:
    while rounds == 0 or not os.path.exists(stop):
        rounds += 1
        blocks = [bytes([(rounds * 7 + n) % 251]) * BLOCK for n in range(BLOCKS)]
        waiting = [disk.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b)), at + n * BLOCK) for n, b in enumerate(blocks)]
        while waiting:
            disk.poll(-1)
            waiting = [cookie for cookie in waiting if not disk.aio_command_completed(cookie)]
        disk.flush()
        for n, block in enumerate(blocks):
            if disk.pread(BLOCK, at + n * BLOCK) != block:
                sys.exit(f"round {rounds}: block {n} is not what was written")
        told.write(b".")
with open(content, "wb") as out:
    out.write(b"".join(blocks))
if disk.get_size() != size:
    sys.exit("the size of an open connection changed")
disk.shutdown()
