#!/usr/bin/env python3
"""A facility of one's own: `handler.py SOCKET`, then `exit mail` in programs gets here."""

import json
import socket
import sys

daemon = socket.socket(socket.AF_UNIX)
daemon.connect(sys.argv[1])


def send(**message: object) -> None:
    """One message to dprobed."""
    daemon.sendall(json.dumps(message).encode() + b"\n")


send(type="hello", id=0, protocol=1)
send(type="register", id=1, name="mailer", facility="mail", timeout=5)
for line in daemon.makefile():
    message = json.loads(line)
    if message["type"] == "report":
        record = message["record"]
        print(record["comm"], record["place"], record["log"], flush=True)
        verdict = "terminate" if record["hit"] > 100 else "continue"
        send(type="answer", handler="mailer", report=message["report"], verdict=verdict)
    else:
        print(line.rstrip(), file=sys.stderr)
