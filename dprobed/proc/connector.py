"""Process events from the kernel's proc connector (Documentation/driver-api/connector.rst).

A netlink socket on which the kernel sends one small datagram for each fork, exec and exit on the
machine, from the moment that it happens. Only root may listen, and only in the first pid and user
namespace. Where we read too slowly the kernel drops events and says so (ENOBUFS).

Most events of a busy machine are about threads. A filter in the kernel leaves those out: they cost
us nothing, and the room that there is holds processes only.

Read by hand: of each message we need two numbers at a fixed place, some thousand times a second. A
netlink library (pyroute2) decodes each event into a dictionary, and takes 14 MB of memory in the
daemon; psutil has no events.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Collection
from typing import Final

from dprobed.proc.events import EventKind, EventSink

# include/uapi/linux/netlink.h, connector.h, cn_proc.h; include/uapi/asm-generic/socket.h
_NETLINK_CONNECTOR: Final = 11
_NLMSG_DONE: Final = 3
_CN_IDX_PROC: Final = 1
_CN_VAL_PROC: Final = 1
_LISTEN: Final = 1
_IGNORE: Final = 2
_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33

_NETLINK: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_MESSAGE: Final = struct.Struct("=IIIIHH")  # index, value, sequence, acknowledged, length, flags
#: After both headers: what, cpu, time stamp, and the first four numbers of what it is about.
_EVENT: Final = struct.Struct("=IIQIIII")
_EVENT_AT: Final = _NETLINK.size + _MESSAGE.size

_NONE: Final = 0
_FORK: Final = 0x1
_EXEC: Final = 0x2
_UID: Final = 0x4
_GID: Final = 0x40
_EXIT: Final = 0x8000_0000

_KINDS: Final = {
    _FORK: EventKind.FORK,
    _EXEC: EventKind.EXEC,
    _UID: EventKind.UID,
    _GID: EventKind.UID,
    _EXIT: EventKind.EXIT,
}

#: Receive buffer for 80,000 events (the kernel counts 832 bytes for each, and allows twice what is
#: asked): many seconds of a machine that starts a thousand processes a second. The kernel takes the
#: memory only when it is needed.
_BUFFER: Final = 32 << 20
#: Events read before the event loop may do something else.
_BATCH: Final = 256


# Instructions of the classic BPF (linux/filter.h): code, where to go if true, if not, number.
_INSTRUCTION: Final = struct.Struct("=HBBI")
_LOAD: Final = 0x20  # A = a word of the message, most significant byte first
_TO_X: Final = 0x07  # X = A
_IS: Final = 0x15  # A == the number?
_IS_X: Final = 0x1D  # A == X?
_RETURN: Final = 0x06  # so many bytes of the message are let through
_WHOLE: Final = 0xFFFF_FFFF


class Connector:
    """Listens to the kernel for events of all processes of the machine, of the given kinds; events
    of threads are left out."""

    name = "connector"

    def __init__(self, sink: EventSink, kinds: Collection[EventKind] = tuple(EventKind)) -> None:
        self._sink = sink
        self._kinds = kinds
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Listen; raises OSError where we may not."""
        self._socket = listening(self._kinds)
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def stop(self) -> None:
        """Stop listening."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            with contextlib.suppress(OSError):
                # Earlier kernels count listeners by what they say, not by their sockets.
                _ask(self._socket, struct.pack("=I", _IGNORE))
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        for _ in range(_BATCH):
            if self._socket is None:
                return  # The sink stopped us at the last event.
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._sink.on_lost()
                continue
            event = event_of(data)
            if event is not None:
                self._sink.on_event(*event)


def listening(kinds: Collection[EventKind] = tuple(EventKind)) -> socket.socket:
    """A socket to which the kernel sends events of processes; raises OSError where we may not."""
    events = [event for event, kind in _KINDS.items() if kind in kinds]
    sock = socket.socket(
        socket.AF_NETLINK,
        socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
        _NETLINK_CONNECTOR,
    )
    try:
        # Before the first event can come.
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        _attach_filter(sock, events)
        sock.bind((0, _CN_IDX_PROC))
        # Since Linux 6.6 the kernel can be told what to leave out; earlier ones do not know
        # the longer request, and do not answer it.
        wanted = struct.pack("=II", _LISTEN, sum(events))
        if not _asked(sock, wanted) and not _asked(sock, wanted[:4]):
            raise PermissionError(errno.EPERM, "the kernel does not answer here")
    except OSError:
        sock.close()
        raise
    return sock


def event_of(data: bytes) -> tuple[EventKind, int, int] | None:
    """The event in a datagram: what happened, to which process, and its parent at a fork (else 0).

    None: it is about a thread, or something else.
    """
    if len(data) < _EVENT_AT + _EVENT.size:
        return None
    what, _, _, one, two, three, four = _EVENT.unpack_from(data, _EVENT_AT)
    if what == _FORK:  # parent's thread, parent, child's thread, child
        return (EventKind.FORK, four, two) if three == four else None
    if what == _EXEC:  # By whichever thread: it is the leading one afterwards.
        return EventKind.EXEC, two, 0
    kind = _KINDS.get(what)
    return (kind, two, 0) if kind is not None and one == two else None


def _attach_filter(sock: socket.socket, events: Collection[int]) -> None:
    """Have the kernel drop events of threads and of other kinds before they take room (a BPF filter
    of the socket)."""
    first = _EVENT_AT + 16  # the numbers behind what, cpu and time stamp
    program = [(_LOAD, 0, 0, _EVENT_AT)]
    for event in events:
        # The child of a fork is in its second pair of numbers: thread, process.
        pair = first + 8 if event == _FORK else first
        same = [(_LOAD, 0, 0, pair), (_TO_X, 0, 0, 0), (_LOAD, 0, 0, pair + 4), (_IS_X, 0, 1, 0)]
        check = [] if event == _EXEC else same
        verdicts = [(_RETURN, 0, 0, _WHOLE), (_RETURN, 0, 0, 0)]
        program += [(_IS, 0, len(check) + 2, socket.htonl(event)), *check, *verdicts]
    # The answer to our request.
    program += [(_IS, 0, 1, _NONE), (_RETURN, 0, 0, _WHOLE), (_RETURN, 0, 0, 0)]
    code = array.array("B", b"".join(_INSTRUCTION.pack(*each) for each in program))
    address, _ = code.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), address))


def _ask(sock: socket.socket, what: bytes) -> None:
    message = _MESSAGE.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, 0, len(what), 0) + what
    header = _NETLINK.pack(_NETLINK.size + len(message), _NLMSG_DONE, 0, 0, os.getpid())
    sock.send(header + message)


def _asked(sock: socket.socket, wanted: bytes) -> bool:
    """Ask to listen; whether the kernel agreed. Its answer is there when ``send`` returns."""
    _ask(sock, wanted)
    while True:
        try:
            data = sock.recv(4096)
        except BlockingIOError:
            return False
        if len(data) >= _EVENT_AT + _EVENT.size:
            what, _, _, refused, *_ = _EVENT.unpack_from(data, _EVENT_AT)
            if what == _NONE:
                return not refused
