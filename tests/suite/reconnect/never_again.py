# A stock libnbd client that writes past the end it knows and, when it is cut, connects again without a second try.
import errno
import sys

import nbd

MIB = 1 << 20


def connect():
    handle = nbd.NBD()
    handle.set_strict_mode(handle.get_strict_mode() & ~nbd.STRICT_BOUNDS)
    handle.connect_uri(sys.argv[1])
    return handle


def refused(handle, offset):
    try:
        handle.pwrite(b"x" * 512, offset)
    except nbd.Error as error:
        return error.errnum
    return 0


first = connect()
assert first.get_size() == MIB, first.get_size()
assert refused(first, MIB) not in (0, errno.ENOSPC), "it should have been cut"
for turn in range(3):
    again = connect()
    assert again.get_size() == 5 * MIB, (turn, again.get_size())
    assert refused(again, 8 * MIB) == errno.ENOSPC, turn
    assert again.pread(512, MIB) == bytes(512), "what was not answered is not written"
    again.shutdown()
# It does come back, after all.
last = connect()
assert refused(last, MIB) == 0
assert refused(last, 8 * MIB) not in (0, errno.ENOSPC), "it should have been cut again"
assert connect().get_size() > 8 * MIB
