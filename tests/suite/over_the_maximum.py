"""Asks for more than the maximum block size at once, where libnbd is told not to mind; then goes on as if nothing were."""

import errno
import sys

import nbd

uri, = sys.argv[1:]
handle = nbd.NBD()
handle.connect_uri(uri)
maximum = handle.get_block_size(nbd.SIZE_MAXIMUM)
assert maximum == 64 << 10, maximum
handle.set_strict_mode(0)
for ask in lambda: handle.pread(maximum * 2, 0), lambda: handle.pwrite(bytes(maximum * 2), 0):
    try:
        ask()
    except nbd.Error as error:
        assert error.errnum == errno.EINVAL, error
    else:
        raise AssertionError("more than the maximum was taken")
handle.pwrite(b"x" * maximum, 0)
assert handle.pread(maximum, 0) == b"x" * maximum
handle.shutdown()
