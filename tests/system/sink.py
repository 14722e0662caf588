"""A sink as a process of its own: `python sink.py PORT FILE`.

It takes JSON by POST and keeps one line per record, synced before it answers; an id it has is 409. While a file
`FILE.refused` names a project, its records are 422. It knows nothing of SWOOSH.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main(port: int, file: Path) -> None:
    refused = file.with_name(file.name + ".refused")
    file.touch()
    whole = file.read_bytes().rpartition(b"\n")[0]
    known = {json.loads(line)["dr_id"] for line in whole.splitlines()}
    store = os.open(file, os.O_WRONLY)
    os.ftruncate(store, len(whole) + bool(whole))
    os.lseek(store, 0, os.SEEK_END)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            record = json.loads(body)
            status = 200
            if refused.exists() and record["project"] in refused.read_text().split():
                status = 422
            elif self.headers["Idempotency-Key"] != record["dr_id"]:
                status = 400
            elif record["dr_id"] in known:
                status = 409
            else:
                os.write(store, body + b"\n")
                os.fsync(store)
                known.add(record["dr_id"])
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
