# A stock libnbd client that does as it is told on standard input, a line at a time. It grows an export with writes past
# its end, polls its size with block status, and waits for a new one with block status on a connection of its own.
import sys

import nbd

CONTEXTS = ["x-resize:size-low", "x-resize:size-high"]


def connect(*contexts):
    handle = nbd.NBD()
    for context in contexts:
        handle.add_meta_context(context)
    handle.set_strict_mode(handle.get_strict_mode() & ~nbd.STRICT_BOUNDS)
    handle.connect_uri(sys.argv[1])
    return handle


def size(handle):
    flags = {}

    def extent(context, offset, entries, error):
        assert len(entries) == 2, entries
        flags[context] = entries[1]

    handle.block_status(512, 0, extent)
    low, high = (flags[context] for context in CONTEXTS)
    return high << 32 | low


main = connect("x-resize:automatic", *CONTEXTS)
watcher = connect("x-resize:watch", *CONTEXTS)
print("ok", main.get_size(), flush=True)
for line in sys.stdin:
    verb, *numbers = line.split()
    numbers = [int(number) for number in numbers]
    try:
        if verb == "size":
            result = size(main)
        elif verb == "watch":
            result = size(watcher)
        elif verb == "write":
            offset, length, byte = numbers
            main.pwrite(bytes([byte]) * length, offset)
            result = 0
        elif verb == "read":
            offset, length = numbers
            result = len(main.pread(length, offset))
        print("ok", result, flush=True)
    except nbd.Error as error:
        print("error", error.errnum, error.string, flush=True)
main.shutdown()
watcher.shutdown()
