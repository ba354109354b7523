"""The load on a service (``http_load``) as a process that is told when to end."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from typing import Any, Self

#: Seconds in which any number of requests that is waited for is answered.
PATIENCE = 60.0
#: Clients at the same time.
CONNECTIONS = 8


class Load:
    """Clients that ask as fast as they are answered, from now until ``end``."""

    def __init__(self, port: int, *paths: str, connections: int = CONNECTIONS) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.service.http_load"),
                *(str(port), str(connections), *paths),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def more(self, requests: int) -> dict[str, Any]:
        """Wait until so many more requests are done; the counts up to then."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{requests}\n".encode())
        self._process.stdin.flush()
        return self._read()

    def end(self) -> dict[str, Any]:
        """No new requests; the counts when the last is done."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        result = self._read()
        assert self._process.wait(PATIENCE) == 0
        return result

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], PATIENCE)[0], "the load hangs"
        result: dict[str, Any] = json.loads(self._process.stdout.readline())
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
