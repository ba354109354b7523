"""``/dev/dprobes``: programs in, states and records out. Synchronous; what waits says so.

Everything that a program has in the kernel goes away with its descriptor.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

from dprobed.kernel import abi
from dprobed.kernel.contents import entries
from dprobed.kernel.isa_checksum import ISA
from dprobed.kernel.loading import load_module
from dprobed.kernel.places import (
    Known,
    PlacingError,
    attachment,
    look_up,
    named,
    placing_error,
    pushed,
)
from dprobed.printable import located
from dprobed.program.maps import MapContents
from dprobed.program.model import Program

DEVICE: Final = "/dev/dprobes"
#: Bytes for the records of a program on each CPU.
_RING: Final = 1 << 18
#: Bytes that are read at once; where not even one record fits, as many as the largest one has.
_ROOM: Final = 1 << 16
_LARGEST: Final = 1 << 18

_NOT_LOADED: Final = (
    "programs for the kernel need the module dprobes, which is not loaded: `modprobe dprobes`, or "
    "`load_kernel_module = true` in dprobed.toml (`dprobe doctor` says how it is installed)"
)
_NOT_ROOT: Final = "programs for the kernel need root's dprobed"
_CLOSED: Final = (
    f"root's dprobed may not open {DEVICE}: a service of systemd needs the settings of kernel.conf "
    "(kernel_bridge/README.md; the package dprobes-dkms brings them)"
)
_OTHER: Final = (
    "the module dprobes that is loaded is of another version than this dprobed: build and load the "
    "one that belongs to it"
)

#: Why the module refuses a program, where that needs saying.
_REFUSALS: Final = {
    abi.Refusal.NO_FPU: "a kernel program has no floating-point registers",
    abi.Refusal.NO_HOLD: "a kernel program cannot suspend or resume a thread",
    abi.Refusal.NO_TLS: "a kernel program has no thread-local variables",
    abi.Refusal.NO_WRITE_CHECK: "a kernel program cannot ask what may be written (`vfy rw`)",
    abi.Refusal.NO_USTACK: (
        "`ustack` is of programs in processes: the stack in the kernel is `kstack`"
    ),
    abi.Refusal.NOT_YET: "the module dprobes cannot do that yet",
    abi.Refusal.BAD_KEY: "a map is not used as the module dprobes wants it",
    abi.Refusal.NO_ALTER: (
        "altering is switched off in the kernel; load the module with `allow_alter=1` if it is "
        "to be allowed"
    ),
    abi.Refusal.TOO_MANY_BLOCKS: "its probes reach too much code together",
}

_Struct = TypeVar("_Struct", bound=ctypes.Structure)


class DeviceError(Exception):
    """The kernel refuses; the text is one line for the user."""


class NotLoadedError(DeviceError):
    """There is no device: the module is not loaded."""


class Calls(NamedTuple):
    """The system calls on the device; and what loads the module: "", or why that failed."""

    open: Callable[[str, int], int] = os.open
    ioctl: Callable[[int, int, ctypes.Structure], int] = fcntl.ioctl
    request: Callable[[int, int], int] = fcntl.ioctl
    load: Callable[[], str] = load_module


class Hit(NamedTuple):
    """One record."""

    head: abi.Record
    raw: tuple[int, ...]
    log: bytes


class InFile(NamedTuple):
    """An open file in which the probes of a program are placed, each at its offset."""

    descriptor: int
    offsets: Sequence[int]


class KernelProgram:
    """A program in the kernel: a descriptor."""

    def __init__(self, fd: int, program: Program, known: Known, calls: Calls) -> None:
        self.fd: Final = fd
        self.program: Final = program
        #: What the names in its places meant when it was loaded.
        self._known: Final = known
        self._calls: Final = calls

    def _ioctl(self, name: str, argument: _Struct) -> _Struct:
        self._calls.ioctl(self.fd, abi.REQUESTS[name], argument)
        return argument

    def attach(self, number: int, file: InFile | None = None) -> None:
        """Place its probe of that number, counted from 0, in a ``file`` or in the kernel, where it
        may have to wait for its module; raises PlacingError."""
        header = self.program.header
        probe = self.program.probes[number]
        try:
            if file is None:
                argument = attachment(probe, number, header, self._known)
                self._ioctl("DPROBES_ATTACH", argument)
            else:
                self._attach_in(file, number)
        except OSError as error:
            raise placing_error(error.errno or 0, probe, header) from None

    def _attach_in(self, file: InFile, number: int) -> None:
        """The kernel looks at an instruction where a process has it mapped; that it cannot place it
        in one that comes to map it later is told to nobody. So one has: this."""
        offset = file.offsets[number]
        argument = abi.Attach(
            probe=number, kind=abi.Kind.FILE, offset=offset, length=file.descriptor
        )
        start = offset - offset % mmap.PAGESIZE
        size = min(mmap.PAGESIZE, os.fstat(file.descriptor).st_size - start)
        how = {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ, "offset": start}
        with mmap.mmap(file.descriptor, size, **how):
            self._ioctl("DPROBES_ATTACH", argument)

    def query(self, number: int) -> abi.Query:
        """The state and the counts of a probe."""
        return self._ioctl("DPROBES_QUERY", abi.Query(probe=number))

    def lost(self) -> int:
        """How many records had no room, of all its probes."""
        return int(self._ioctl("DPROBES_STATS", abi.Stats()).lost)

    def variables(self, first: int, count: int, *, shared: bool) -> list[int]:
        """Its own variables, or those that the programs of the device share."""
        words = (ctypes.c_uint64 * count)()
        self._ioctl("DPROBES_GETVARS", abi.Vars(shared, first, count, 0, ctypes.addressof(words)))
        return list(words)

    def clear(self, first: int, count: int, *, shared: bool) -> None:
        """Set variables to 0."""
        words = (ctypes.c_uint64 * count)()
        self._ioctl("DPROBES_SETVARS", abi.Vars(shared, first, count, 0, ctypes.addressof(words)))

    def contents(self, number: int, reset: abi.Reset = abi.Reset.KEEP) -> MapContents:
        """What is in its map of that number, which is then reset so."""
        asked = self._ioctl("DPROBES_CONTENTS", abi.Contents(map=number))
        with mmap.mmap(-1, asked.size) as memory:
            place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            found = abi.Contents(map=number, reset=reset, data=place, room=asked.size)
            self._ioctl("DPROBES_CONTENTS", found)
            data = memory[: found.size]
        return MapContents(found.lost, entries(self.program.header.map[number], data))

    def read(self) -> list[Hit]:
        """The records that are there; does not wait."""
        try:
            data = os.read(self.fd, _ROOM)
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            data = os.read(self.fd, _LARGEST)
        return list(_hits(data))

    def read_rest(self) -> Iterator[list[Hit]]:
        """What all rings can hold; its probes may fire all the time."""
        for _ in range((os.cpu_count() or 1) * _RING // _ROOM + 1):
            hits = self.read()
            if not hits:
                return
            yield hits

    def use(self, number: int) -> tuple[int, int]:
        """How many keys its map of that number has, and how many updates were lost."""
        found = self._ioctl("DPROBES_CONTENTS", abi.Contents(map=number))
        return found.keys, found.lost

    def detach(self) -> None:
        """Take its probes out for good (milliseconds); then nothing changes any more."""
        self._calls.request(self.fd, abi.REQUESTS["DPROBES_DETACH"])

    def close(self) -> None:
        """Take its probes out; returns when no CPU runs its code (milliseconds)."""
        os.close(self.fd)


def _hits(data: bytes) -> Iterator[Hit]:
    while data:
        head = abi.Record.from_buffer_copy(data)
        at = ctypes.sizeof(head)
        end = at + head.raw_count * ctypes.sizeof(abi.Raw)
        raw = struct.unpack(f"<{2 * head.raw_count}H", data[at:end])
        yield Hit(head, raw, data[end : end + head.log_size])
        data = data[head.size :]


class Device:
    """The open device: programs that are loaded through it share their global variables."""

    def __init__(self, calls: Calls) -> None:
        """Open it; raises DeviceError, NotLoadedError."""
        self._calls: Final = calls
        try:
            self._fd: Final = self._calls.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotLoadedError(_NOT_LOADED) from None
        except PermissionError:
            raise DeviceError(_NOT_ROOT if os.geteuid() else _CLOSED) from None
        except OSError as error:
            raise DeviceError(f"{DEVICE}: {error.strerror}") from None
        version = abi.Version()
        with contextlib.suppress(OSError):  # That one has no versions.
            self._calls.ioctl(self._fd, abi.REQUESTS["DPROBES_VERSION"], version)
        if (version.abi, version.isa) != (abi.ABI, ISA):
            os.close(self._fd)
            raise DeviceError(_OTHER)

    def load(self, program: Program, facilities: Sequence[int]) -> KernelProgram:
        """Load a program, nothing of it placed; raises DeviceError."""
        load = abi.load_header(program, _RING)
        names = {program.names[index] for index, _ in program.symbols}
        if program.header.kernel:
            names.update(named(program.probes))
        known = look_up(names)
        symbols = _values_of_symbols(program, known)
        arrays = [
            ctypes.create_string_buffer(data, len(data))
            for data in abi.load_arrays(program, facilities, symbols)
        ]
        for name, array in zip(abi.ARRAYS, arrays, strict=True):
            setattr(load, name, ctypes.addressof(array))
        try:
            fd = self._calls.ioctl(self._fd, abi.REQUESTS["DPROBES_LOAD"], load)
        except OSError as error:
            if error.errno == errno.EBADMSG:
                raise DeviceError(_refusal(program, load)) from None
            raise DeviceError(f"the kernel does not take it: {error.strerror}") from None
        os.set_blocking(fd, False)
        return KernelProgram(fd, program, known, self._calls)

    def close(self) -> None:
        """Close it; programs stay until they are closed themselves."""
        os.close(self._fd)


def _refusal(program: Program, load: abi.Load) -> str:
    reason = abi.Refusal(load.refused)
    text = _REFUSALS.get(reason, f"the module dprobes refuses it: {reason.name}")
    # Of the others `where` is no code offset.
    place = program.code_place(load.where) if reason >= abi.Refusal.UNKNOWN_OPCODE else None
    return located(str(place), text) if place is not None else text


def _values_of_symbols(program: Program, known: Known) -> list[int]:
    """The address of each symbol that the program pushes, 0 for its other names.

    Raises DeviceError.
    """
    values = [0] * len(program.names)
    for index, _ in program.symbols:
        try:
            values[index] = pushed(program.names[index], program.header, known)
        except PlacingError as error:
            place = str(program.symbol_place(index) or "")
            raise DeviceError(located(place, str(error))) from None
    return values
