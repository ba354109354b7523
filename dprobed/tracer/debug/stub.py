"""The remote protocol's server ("stub"): the packets of a debugger, answered from a held target.

``Session`` is one debugger on one socket. It never waits: ``serve`` reads what has come and
answers; ``report`` tells of a stop. All-stop mode of the GDB remote protocol: a stop is the answer
to the packet that resumed the target.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dprobed.tracee import ptrace
from dprobed.tracee.ptrace import Gone, PtraceError
from dprobed.tracer.debug import rsp
from dprobed.tracer.debug.breakpoints import Breakpoints, Refused, Unsupported
from dprobed.tracer.debug.control import Control, Event
from dprobed.tracer.debug.files import Files
from dprobed.tracer.debug.held import ERROR, OK, HeldTarget, hexed
from dprobed.tracer.debug.packets import PacketSocket
from dprobed.tracer.engines import Engines

_FEATURES: Final = (
    "PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;qXfer:auxv:read+;qXfer:threads:read+;"
    "qXfer:exec-file:read+;qXfer:siginfo:read+;QPassSignals+;vContSupported+;swbreak+;hwbreak+;"
    "exec-events+%s"
)
_GONE: Final = b"E03"
_EXPEDITED: Final = ("rbp", "rsp", "rip")
_TRIPLE: Final = b"x86_64-pc-linux-gnu"

_log = logging.getLogger(__name__)


class Session:
    """A connected debugger."""

    def __init__(
        self,
        sock: socket.socket,
        pid: int,
        engines: Engines,
        control: Control,
        points: Breakpoints,
    ) -> None:
        self._over = False
        self._socket = PacketSocket(sock)
        self._pid = pid
        self._held = HeldTarget(pid, engines, control)
        self._control = control
        self._points = points
        self._files = Files(pid)
        self._swbreak = False
        self._stop: Event | None = None
        #: A resume has been asked for, and no stop was reported since.
        self.waits = False
        self._packets: Final = self._letters()
        self._named: Final = self._names()

    def _letters(self) -> dict[bytes, Callable[[bytes], bytes | None]]:
        """The handlers of packets that are known by their first letter."""
        return {
            b"?": self._why,
            b"g": lambda _: self._held.registers(),
            b"G": self._held.set_registers,
            b"p": self._held.register,
            b"P": self._held.set_register,
            b"m": self._held.read,
            b"M": self._held.write_hex,
            b"X": self._held.write,
            b"H": self._held.select,
            b"T": self._held.is_alive,
            b"Z": self._insert,
            b"z": self._remove,
            b"c": lambda rest: self._plain("c", b"", rest),
            b"s": lambda rest: self._plain("s", b"", rest),
            b"C": lambda rest: self._plain("c", *rest.partition(b";")[::2]),
            b"S": lambda rest: self._plain("s", *rest.partition(b";")[::2]),
            b"D": self._detach,
            b"k": self._kill,
        }

    def _names(self) -> dict[bytes, Callable[[bytes], bytes | None]]:
        """The handlers of packets with a name (``q``, ``Q``, ``v``)."""
        return {
            b"qSupported": self._supported,
            b"QStartNoAckMode": self._no_acks,
            b"qC": lambda _: b"QC" + self._held.name(self._held.tid),
            b"qAttached": lambda _: b"1",
            b"qSymbol": self._held.symbol,
            b"qGetTLSAddr": self._held.thread_local,
            b"qfThreadInfo": self._held.thread_ids,
            b"qsThreadInfo": lambda _: b"l",
            b"qXfer": self._transfer,
            b"QPassSignals": self._pass_signals,
            b"qHostInfo": lambda _: b"triple:%s;ptrsize:8;endian:little;" % hexed(_TRIPLE),
            b"qProcessInfo": lambda _: (
                b"pid:%x;triple:%s;ostype:linux;ptrsize:8;endian:little;"
                % (self._pid, hexed(_TRIPLE))
            ),
            b"vCont?": lambda _: b"vCont;c;C;s;S;t;r",
            b"vCont": self._vcont,
            b"vFile": self._files.serve,
            b"vKill": self._kill_politely,
        }

    # --- the socket ---

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._socket.fileno()

    @property
    def wants_to_write(self) -> bool:
        """Whether answers wait for the debugger to take them."""
        return self._socket.wants_to_write

    @property
    def over(self) -> bool:
        """Whether the debugger has detached, killed the process, or closed the connection."""
        return self._over or self._socket.is_closed

    def serve(self) -> None:
        """Read the packets that have come, and answer them; never waits."""
        while not self.over and self._socket.receive():
            while not self.over and (item := self._socket.next()) is not None:
                if isinstance(item, bytes):
                    self._answer(item)
                elif self.waits:
                    self._control.interrupt(self._held.tid)
        if not self._socket.is_closed:
            self._socket.push()

    def _answer(self, packet: bytes) -> None:
        try:
            answer = self._do(packet)
        except Gone:
            answer = _GONE
        except (rsp.PacketError, PtraceError, OSError, IndexError) as error:
            _log.info("debugger: %r: %s", packet[:60], error)
            answer = ERROR
        except Exception:
            # It does not harm the target, which is resumed when the debugger disconnects.
            _log.exception("debugger: %r failed", packet[:60])
            answer = ERROR
        if answer is not None:
            self._socket.send(answer)

    def _do(self, packet: bytes) -> bytes | None:
        if packet[:1] in (b"q", b"Q", b"v"):
            cut = min((at for at in map(packet.find, (b":", b";", b",")) if at > 0), default=None)
            handler = self._named.get(packet[:cut])
            rest = b"" if cut is None else packet[cut + 1 :]
        else:
            handler, rest = self._packets.get(packet[:1]), packet[1:]
        return b"" if handler is None else handler(rest)

    def close(self) -> None:
        """Send what is left, and close the connection and the debugger's files."""
        self._socket.push()
        self._files.close()
        self._socket.close()

    # --- stops ---

    def report(self) -> None:
        """Report the first stop that the debugger has not been told of."""
        self._stop = self._control.take()
        self._held.tid = self._stop.tid
        self.waits = False
        self._socket.send(self._stop_reply(self._stop))
        self._socket.push()

    def ended(self, how: str, status: int) -> None:
        """Report that the target has ended."""
        letter = b"X" if how == "killed" else b"W"
        code = rsp.to_gdb(status) if how == "killed" else status
        process = b";process:%x" % self._pid if self._held.multiprocess else b""
        self._socket.send(letter + b"%02x" % code + process)
        self._socket.push()

    def _stop_reply(self, event: Event) -> bytes:
        parts = [b"T%02xthread:%s;" % (rsp.to_gdb(event.signal), self._held.name(event.tid))]
        detail = event.detail
        if detail.startswith((b"swbreak", b"hwbreak")) and not self._swbreak:
            detail = b""
        parts.append(detail)
        thread = self._control.thread(event.tid)
        if thread is not None:
            try:
                general, layout = (
                    bytes(self._control.read_general(thread)),
                    self._held.table(thread),
                )
                for name in _EXPEDITED:
                    number = layout.numbers[name]
                    parts.append(b"%x:%s;" % (number, hexed(layout.read(number, general, b""))))
            except (Gone, PtraceError):
                pass
        return b"".join(parts)

    def _why(self, _: bytes) -> bytes:
        if self._stop is None and self._control.is_ready:
            self._stop = self._control.take()
            self._held.tid = self._stop.tid
        if self._stop is None:
            threads = self._control.threads()
            self._held.tid = threads[0].tid if threads else self._pid
            self._stop = Event(self._held.tid, 0)
        return self._stop_reply(self._stop)

    # --- breakpoints ---

    def _insert(self, rest: bytes) -> bytes:
        kind, address, length = rsp.numbers(rest.partition(b";")[0], 3)
        try:
            self._points.insert(kind, address, length)
        except Unsupported:
            return b""
        except Refused as error:
            _log.info("debugger: breakpoint at %#x: %s", address, error)
            return ERROR
        return OK

    def _remove(self, rest: bytes) -> bytes:
        self._points.remove(*rsp.numbers(rest.partition(b";")[0], 3))
        return OK

    # --- resuming ---

    def _vcont(self, rest: bytes) -> None:
        self._resume(rsp.actions(rest))

    def _plain(self, kind: str, number: bytes, address: bytes) -> None:
        """The packets from before ``vCont``: a step is of the thread chosen, with the others."""
        if address:
            raise rsp.PacketError("going on elsewhere: set the pc first")
        signal_ = rsp.number(number) if number else 0
        chosen = rsp.ThreadId(0, self._held.tid)
        self._resume([rsp.Action(kind, signal_, chosen), rsp.Action("c", 0, rsp.ALL)])

    def _resume(self, actions: list[rsp.Action]) -> None:
        self._stop = None
        self.waits = True
        self._control.resume(actions, self._points.inserted)

    def _detach(self, _: bytes) -> None:
        self._socket.send(OK)
        self._over = True

    def _kill(self, _: bytes) -> None:
        self._over = True
        try:
            os.kill(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _kill_politely(self, rest: bytes) -> None:
        self._socket.send(OK)
        self._kill(rest)

    # --- features and objects ---

    def _supported(self, rest: bytes) -> bytes:
        theirs = rest.split(b";")
        self._held.multiprocess = b"multiprocess+" in theirs
        self._swbreak = b"swbreak+" in theirs
        more = ";multiprocess+" if self._held.multiprocess else ""
        return (_FEATURES % (rsp.MAX_PACKET, more)).encode()

    def _no_acks(self, _: bytes) -> bytes:
        self._socket.acknowledges = False
        return OK

    def _pass_signals(self, rest: bytes) -> bytes:
        wanted = (rsp.from_gdb(rsp.number(each)) for each in rest.split(b";") if each)
        self._control.passed = frozenset(wanted)
        return OK

    def _transfer(self, rest: bytes) -> bytes:
        parts = rest.split(b":")
        if len(parts) != 4 or parts[1] != b"read":
            return b""
        kind, _, annex, where = parts
        match kind:
            case b"features" if annex == b"target.xml":
                data = self._held.table(self._held.thread()).description
            case b"auxv":
                with open(f"/proc/{self._pid}/auxv", "rb") as auxv:
                    data = auxv.read()
            case b"exec-file":
                data = os.fsencode(Path(f"/proc/{self._pid}/exe").readlink())
            case b"threads":
                data = self._held.threads_xml()
            case b"siginfo":
                thread = self._held.thread()
                data = thread.siginfo or ptrace.get_siginfo(thread.tid)
            case _:
                return b"" if kind != b"features" else b"E00"
        return rsp.window(data, where)
