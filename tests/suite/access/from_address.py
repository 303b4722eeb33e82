# A stock libnbd client that connects from an address of its choice, and says what it may do: nothing, read, or write.
# usage: from_address.py SOURCE TARGET PORT EXPORT
import socket
import sys

import nbd

source, target, port, export = sys.argv[1:]
connection = socket.create_connection((target, int(port)), source_address=(source, 0))

client = nbd.NBD()
client.set_export_name(export)
try:
    client.connect_socket(connection.detach())
except nbd.Error as error:
    if error.errno != "ENOENT":
        raise
    print("nothing")
    sys.exit()
print("read" if client.is_read_only() else "write")
client.shutdown()
