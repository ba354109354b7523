"""For how long what clients insert stays: as they say, else by the configuration's default.

A default holds for what ordinary users of root's daemon leave behind. What a policy allows at most
is another matter, and may change while a program is in (``InsertedProgram.until``).
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from dprobed.daemon.client import Client
from dprobed.daemon.gate import Gate
from dprobed.daemon.insertion import Term
from dprobed.program.bytecode import encode
from dprobed.program.model import Program
from dprobed.wire import messages

_DEFAULT: Final = "the default of dprobed.toml"


class Terms:
    """Says for how long a client's programs stay."""

    def __init__(self, gate: Gate) -> None:
        self._gate: Final = gate

    def of(
        self, client: Client, upload: messages.Upload, program: Program, *, keep: bool
    ) -> tuple[messages.Upload, Program, Term]:
        """The program as it is inserted for a client, and its term from now on."""
        since = time.monotonic()
        term = Term(since, None if upload.seconds is None else since + upload.seconds)
        if not keep or self._gate.commands(client):
            return upload, program, term
        default = self._gate.store.config.stay
        if default.seconds is not None and upload.seconds is None:
            term = Term(since, since + default.seconds, _DEFAULT)
        if default.max_hits is not None and not all(probe.max_hits for probe in program.probes):
            probes = tuple(
                msgspec.structs.replace(probe, max_hits=probe.max_hits or default.max_hits)
                for probe in program.probes
            )
            program = msgspec.structs.replace(program, probes=probes)
            upload = msgspec.structs.replace(upload, bytecode=encode(program))
        return upload, program, term
