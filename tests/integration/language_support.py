"""A target whose registers and memory programs read and alter, and what it says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dprobed.record.log import decode_log
from dprobed.wire.protocol import ProbeStatus, RawRecord
from tests.integration.harness import Target, TracerProcess


@dataclass
class Lab:
    """The target, its tracer, and what both have said of the last command."""

    module: Path
    target: Target
    tracer: TracerProcess
    saw: dict[str, int] = field(default_factory=dict)

    @property
    def pages(self) -> int:
        """Two pages that can be written, one that is not there, one that can be read, none."""
        return self.target.number("pages")

    def command(self, letter: str) -> dict[str, int]:
        """Have the target do something; the numbers that it said, by name."""
        before = len(self.target.said)
        self.target.process.stdin.write(letter.encode())
        self.target.process.stdin.flush()
        self.target.expect("done")
        lines = [line.split() for line in self.target.said[before:] if line.count(" ") == 1]
        self.saw = {name: int(value) for name, value in lines if value.lstrip("-").isdigit()}
        return self.saw

    def source(self, body: str, place: str, header: str, probe: str) -> str:
        return f'name = "{self.module}"\n{header}\noffset = {place}\n{probe}\n{body}\n'

    def put(self, body: str, place: str = "hook", header: str = "", probe: str = "") -> int:
        """Put a program in; its number."""
        return self.tracer.put(self.source(body, place, header, probe))

    def insert(self, body: str, place: str = "hook", probe: str = "") -> ProbeStatus:
        """Put a program in, whatever comes of it."""
        _, (status,) = self.tracer.insert(self.source(body, place, "", probe))
        return status

    def records(self, program: int) -> list[RawRecord]:
        """What a program has recorded, after it is taken out."""
        self.tracer.remove(program)
        return [record for record in self.tracer.records if record.program == program]

    def shot(
        self, body: str, place: str = "hook", command: str = "h", header: str = "", probe: str = ""
    ) -> RawRecord:
        """The record of a program for one command."""
        number = self.put(body, place, header, probe)
        self.command(command)
        (record,) = self.records(number)
        return record

    def status(self, program: int) -> ProbeStatus:
        (found,) = self.tracer.query(program)
        return found


def items(record: RawRecord) -> list[dict[str, Any]]:
    return decode_log(record.log, record.raw)


def words(record: RawRecord) -> list[int]:
    """All words of a record."""
    return [word for item in items(record) for word in item.get("words", ())]


def log_each(*pushes: str) -> str:
    """Push something, log it, and so on."""
    return "\n".join(f"{push}\nlog 1" for push in pushes)
