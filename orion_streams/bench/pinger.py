"""How long a server lets others wait: PINGs one after the other, on a connection of their own.

`python -m orion_streams.bench.pinger URL SECONDS` writes one line of JSON: the 99th percentile and the
longest, in ms, and how many there were.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from statistics import quantiles
from urllib.parse import urlsplit

PING, PONG = b"PING\r\n", b"+PONG\r\n"
PAUSE_S = 0.0005
"""Between two PINGs: the pinger is not to be the load."""


def ping(url: str, seconds: float) -> list[float]:
    """Return how long each PING took, in ms."""
    address, took_ms = urlsplit(url), []
    with socket.create_connection((address.hostname or "localhost", address.port or 6379)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until_s = time.perf_counter() + seconds
        while (sent_s := time.perf_counter()) < until_s:
            connection.sendall(PING)
            heard = b""
            while len(heard) < len(PONG):
                more = connection.recv(len(PONG) - len(heard))
                if not more:
                    raise ConnectionError("the server hung up")
                heard += more
            took_ms.append((time.perf_counter() - sent_s) * 1000)
            time.sleep(PAUSE_S)
    return took_ms


if __name__ == "__main__":
    found = ping(sys.argv[1], float(sys.argv[2]))
    row = {"p99_ms": quantiles(found, n=100)[-1], "longest_ms": max(found), "count": len(found)}
    sys.stdout.write(json.dumps(row) + "\n")
