# usage: URI OLD NEW: finds OLD's bytes on the export and leaves NEW's, by every command that the server allows.
import sys
import nbd

uri, old, new = sys.argv[1], open(sys.argv[2], "rb").read(), open(sys.argv[3], "rb").read()
h = nbd.NBD()
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(uri)
size = h.get_size()
assert size == len(old), f"size {size}, expected {len(old)}"
largest = min(h.get_block_size(nbd.SIZE_MAXIMUM) or 1 << 25, 1 << 25)


def finish(pending):
    """Waits for all of them; the first error is raised."""
    while pending:
        pending = [cookie for cookie in pending if not h.aio_command_completed(cookie)]
        if pending:
            h.poll(-1)


def read_all(flags=0, step=1 << 18):
    step = min(step, largest)
    buffers = {at: nbd.Buffer(min(step, size - at)) for at in range(0, size, step)}
    if flags:
        finish([h.aio_pread_structured(b, at, lambda *chunk: 0, flags=flags) for at, b in buffers.items()])
    else:
        finish([h.aio_pread(b, at) for at, b in buffers.items()])
    return b"".join(bytes(buffers[at].to_bytearray()) for at in sorted(buffers))


def write(at, length, flags=0, step=1 << 18):
    step = min(step, largest)
    finish([h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(new[a:min(a + step, at + length)])), a, flags=flags)
            for a in range(at, at + length, step)])


def zero(at, length, flags=0):
    if h.can_zero():
        h.zero(length, at, flags)
    else:
        write(at, length)


assert read_all() == old, "the export does not hold what was put there"
if h.can_df():
    assert read_all(nbd.CMD_FLAG_DF) == old, "reads with DF differ"
if h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION):
    extents = []
    for flags in (0, nbd.CMD_FLAG_REQ_ONE):
        at = 0
        while at < size:
            seen = []
            h.block_status(size - at, at, lambda context, offset, entries, error: seen.append(entries) or 0, flags)
            lengths = [(seen[0][i], seen[0][i + 1]) for i in range(0, len(seen[0]), 2)]
            assert lengths, f"no extent at {at}"
            assert not flags or len(lengths) == 1, f"REQ_ONE gave {lengths}"
            for length, kind in lengths:
                # Bit 1 promises zeroes.
                assert not kind & 2 or not any(old[at:at + length]), f"data at {at}+{length} is said to be zeroes"
                at += length
if h.can_cache():
    h.cache(1 << 20, 0)
if not h.is_read_only():
    fua = nbd.CMD_FLAG_FUA if h.can_fua() else 0
    write(0, 1 << 20, fua)
    write(1 << 20, 1 << 20, step=1 << 12)  # 256 small ones at once
    zero(0x200000, 0x80000)
    write(0x280000, 0x80000)
    zero(0x300000, 0x80000, nbd.CMD_FLAG_NO_HOLE | fua if h.can_zero() else 0)
    if h.can_fast_zero():
        try:
            h.zero(0x80000, 0x380000, nbd.CMD_FLAG_FAST_ZERO)
        except nbd.Error as error:
            assert error.errno == "ENOTSUP", f"fast zero failed with {error.errno}"
    if h.can_trim():
        h.trim(0x100000, 0x400000, fua)
    write(0x380000, size - 0x380000, step=1 << 20)
    if h.can_flush():
        h.flush()
    assert read_all(step=1 << 20) == new, "what was written is not what is read"
h.shutdown()
