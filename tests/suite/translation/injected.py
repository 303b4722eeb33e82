# usage: URI: what a READ and a WRITE end with.
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for attempt in (lambda: h.pread(512, 0), lambda: h.pwrite(b'x' * 512, 0)):
    try:
        attempt()
        print('success')
    except nbd.Error as error:
        print(error.errno)
