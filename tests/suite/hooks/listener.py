# A web server that writes each POST down as a line and answers with the statuses of its arguments, one after the other, the
# last one for ever. It prints its port. "hold" holds an answer back until a line comes on standard input, and is a 503 then.
import http.server
import json
import sys

statuses = sys.argv[2:]


class Listener(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        told = json.loads(body)
        with open(sys.argv[1], "a") as out:
            print(json.dumps({"path": self.path, "type": self.headers["Content-Type"], "told": told}), file=out)
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        if status == "hold":
            sys.stdin.readline()
            status = "503"
        self.send_response(int(status))
        self.end_headers()
        self.wfile.write(b"listener says\n" + status.encode())

    def log_message(self, *words):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Listener)
print(server.server_port, flush=True)
server.serve_forever()
