"""Decodes the programs that clients upload, and verifies them again: clients are not trusted."""

from __future__ import annotations

import asyncio
from typing import Final

from dprobed.daemon.client import NoFacilityRefusal, Refusal
from dprobed.daemon.records.dispatcher import Dispatcher
from dprobed.printable import located
from dprobed.program.bytecode import decode
from dprobed.program.model import Program, ProgramError
from dprobed.resolver.modules import VDSO, VDSO_NAMES
from dprobed.wire import messages
from dprobed.wire.engines import ENGINES, KERNEL

#: Bytes of a program that are verified in a millisecond or two; a larger one is verified in a
#: thread.
_SMALL: Final = 4096


class Programs:
    """Makes programs of uploads, and assigns their numbers."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher: Final = dispatcher
        self._last_number = 0

    def next_number(self) -> int:
        """The number of the next program."""
        self._last_number += 1
        return self._last_number

    def reserve(self, number: int) -> None:
        """A program has this number since before this daemon was started."""
        self._last_number = max(self._last_number, number)

    async def decode_all(
        self, uploads: list[messages.Upload], *, kernel: bool = False
    ) -> list[tuple[messages.Upload, Program]]:
        """The programs of a request, for processes or for the ``kernel``; raises Refusal."""
        return [(upload, await self._decode(upload, kernel=kernel)) for upload in uploads]

    async def _decode(self, upload: messages.Upload, *, kernel: bool) -> Program:
        if upload.engine not in ENGINES:
            known = ", ".join(ENGINES)
            raise Refusal(
                f"{upload.label}: there is no engine `{upload.engine}`; it is one of: {known}"
            )
        try:
            if len(upload.bytecode) <= _SMALL:
                program = decode(upload.bytecode)
                await asyncio.sleep(0)  # There may be a thousand of them.
            else:
                program = await asyncio.to_thread(decode, upload.bytecode)
        except ProgramError as error:
            raise Refusal(f"{upload.label}: {error}") from None
        self.check_facilities(upload.label, program)
        of_kernel = program.header.kernel or upload.engine == KERNEL
        if kernel and not of_kernel:
            raise Refusal(
                f"{upload.label}: only programs with `modtype = kernel`, or for --engine kernel, "
                "go into it"
            )
        if program.header.kernel and not kernel:
            raise Refusal(
                f"{upload.label}: programs for the kernel cannot be inserted into a process"
            )
        if of_kernel and not kernel:
            raise Refusal(
                f"{upload.label}: --engine kernel is for every process that maps the file: "
                "`dprobe insert --engine kernel --all`"
            )
        if program.header.name in VDSO_NAMES:
            raise Refusal(f"{upload.label}: {program.header.name}: {VDSO}")
        return program

    def check_facilities(self, label: str, program: Program) -> None:
        """Check that all facilities that a program names are registered; raises Refusal."""
        facilities = self._dispatcher.facilities
        known = {*facilities, *facilities.values()}
        unknown = [facility for facility in program.facilities if facility not in known]
        if unknown:
            names = ", ".join(map(str, unknown))
            have = ", ".join(f"{name} ({number})" for name, number in facilities.items())
            text = f"{label}: no facility {names} is registered; registered: {have}"
            place = next(iter(program.facility_places(unknown[0])), "")
            raise NoFacilityRefusal(located(str(place), text))
