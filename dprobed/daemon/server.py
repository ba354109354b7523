"""The daemon's side of the control socket: connections, who may command, requests to the registry.

A connection's requests are done one after the other, and those of all connections in turns, so
that nobody waits for somebody else's thousand. What a client does not read stays in a queue of
bounded size: records beyond it are dropped and counted with their probe; a client that takes
neither replies nor reports is cut off. While a client leaves replies unread, its further requests
wait.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select as selecting
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

import msgspec

from dprobed import __version__
from dprobed.daemon import peer
from dprobed.daemon.deploy.auto_insert import Applied
from dprobed.daemon.deploy.deployment import Deployment
from dprobed.daemon.deploy.deployments import Deployments, listed
from dprobed.daemon.identity import Identities
from dprobed.daemon.records.dispatcher import DispatchError
from dprobed.daemon.records.trace_sessions import TraceError
from dprobed.daemon.requests import Registry
from dprobed.daemon.target import Refusal
from dprobed.printable import readable
from dprobed.wire import messages

#: What concerns everybody in a daemon that serves everybody: it is the machine's root who says.
_FOR_ROOT: Final = {
    messages.Register: "only root may register handlers with root's dprobed: they get the records "
    "of all users; start a dprobed of your own",
    messages.Arm: "only root may arm handlers of root's dprobed",
    messages.Disarm: "only root may disarm handlers of root's dprobed",
    messages.TraceStart: "only root may start traces in root's dprobed: they are written as root; "
    "use `dprobe run --format json -o FILE`, or a dprobed of your own",
    messages.TraceStop: "the traces of root's dprobed are root's",
    messages.TraceSave: "the traces of root's dprobed are root's",
    messages.TraceList: "the traces of root's dprobed are root's",
    messages.PolicyReload: "only root may have the policies of root's dprobed read anew",
}
#: Bytes of records that may wait for a client.
RECORD_QUEUE: Final = 8 << 20
#: Bytes of anything that may wait for a client before it is cut off.
HARD_LIMIT: Final = 64 << 20
MAX_CONNECTIONS: Final = 128
#: Those of one user other than root and the daemon's own: nobody can keep the others out.
MAX_OF_A_USER: Final = 32
#: Bytes that all connections of one such user may have us hold, read and not yet done or sent and
#: not yet read: four times the longest message.
BYTES_OF_A_USER: Final = 64 << 20
#: Bytes of a connection that are counted among these only beyond it.
_LITTLE: Final = 1 << 20
#: Seconds that a new connection has for its ``hello``.
HELLO_SECONDS: Final = 10.0
#: Bytes of whole requests that are read ahead of the one that is being done. (The end of a
#: connection is only seen by reading on.)
_AHEAD: Final = 1 << 20
#: Seconds for which requests of one connection are done before others have their turn.
_TURN: Final = 0.001
#: Seconds until a connection is taken again after one could not be.
_ACCEPT_AGAIN: Final = 0.5

_log = logging.getLogger("dprobed")


class Connection(asyncio.Protocol):
    """One client; ``dprobed.daemon.target.Client`` for the registry."""

    def __init__(self, server: Server) -> None:
        self.pid = self.uid = self.gid = -1
        self.kept = False
        self._server = server
        self._registry = server.registry
        self._deployments = server.deployments
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        #: How much of it is whole lines.
        self._whole = 0
        #: Nothing more will come, and what has come is still to be done.
        self._ended = False
        self._worker: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._greeted = False
        self._lost = False
        self._deadline: asyncio.TimerHandle | None = None

    # -- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask the kernel who it is, and refuse who may not command."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 20)
        sock = transport.get_extra_info("socket")
        # struct ucred (include/linux/socket.h): pid, uid, gid.
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid, self.uid, self.gid = struct.unpack("iII", credentials)
        refusal = self._server.admit(self)
        if refusal:
            self._hang_up(messages.Error(error=refusal))
            return
        self._deadline = asyncio.get_running_loop().call_later(
            HELLO_SECONDS,
            lambda: self._hang_up(messages.Error(error="no hello came; closing")),
        )

    def data_received(self, data: bytes) -> None:
        """Cut what came into lines."""
        if self._transport is None or self._transport.is_closing():
            return
        if (end := data.rfind(b"\n")) >= 0:
            self._whole = len(self._buffer) + end + 1
        self._buffer += data
        if len(self._buffer) - self._whole > messages.MAX_LINE:
            text = f"a message is longer than {messages.MAX_LINE} bytes; closing"
            self._hang_up(messages.Error(error=text))
            return
        if len(self._buffer) > _LITTLE and not self._server.has_room(self):
            text = f"the connections of user {self.uid} hold more than {BYTES_OF_A_USER} bytes"
            self._hang_up(messages.Error(error=f"{text}; closing"))
            return
        if self._whole > _AHEAD:
            self._transport.pause_reading()
        if self._whole and self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    def eof_received(self) -> bool:
        """The client has nothing more to ask: the connection ends when that is answered, or at
        once where nobody is there any longer to read it."""
        self._ended = self._worker is not None and not self._is_gone()
        return self._ended

    def _is_gone(self) -> bool:
        """Whether the other end is closed, and not just shut for writing."""
        assert self._transport is not None
        poll = selecting.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        return bool(poll.poll(0))

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever this client did not ask to keep goes out."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._writable.set()
        self._lost = True
        self._server.leave(self)
        self._deployments.release(self)
        self._registry.release(self)

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable.set()

    # --- as a target.Client ---

    def offer(self, lines: bytes) -> bool:
        """Send record lines if there is room for all of them."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        waiting = transport.get_write_buffer_size()
        if waiting + len(lines) > RECORD_QUEUE:
            return False
        if waiting > _LITTLE and not self._server.has_room(self):
            return False
        transport.write(lines)
        return True

    def tell(self, message: messages.Report | messages.Reply) -> None:
        """Send a message; a client that lets too much wait is cut off."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        waiting = transport.get_write_buffer_size()
        if waiting > HARD_LIMIT or (waiting > _LITTLE and not self._server.has_room(self)):
            _log.warning("client %d does not read what it is sent: cut off", self.pid)
            transport.abort()
            return
        transport.write(messages.encode(message))

    @property
    def held(self) -> int:
        """Bytes that we hold for it."""
        unread = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return len(self._buffer) + unread

    # -- requests ------------------------------------------------------------------------------

    def _hang_up(self, message: messages.Error) -> None:
        self.tell(message)
        self._buffer.clear()
        self._whole = 0
        if self._transport is not None:
            self._transport.close()

    async def _work(self) -> None:
        """Do the requests that have come, in order."""
        assert self._transport is not None
        turn = time.monotonic() + _TURN
        while self._whole and not self._lost and not self._transport.is_closing():
            await self._answer(self._next_line())
            if time.monotonic() > turn:
                await asyncio.sleep(0)
                turn = time.monotonic() + _TURN
        self._worker = None
        if self._lost:
            # What the last request did came after the end of the connection.
            self._deployments.release(self)
            self._registry.release(self)
        elif self._ended:
            self._transport.close()

    def _next_line(self) -> bytes:
        assert self._transport is not None
        end = self._buffer.index(b"\n")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._whole -= end + 1
        if self._whole <= _AHEAD:
            self._transport.resume_reading()
        return line

    async def _answer(self, line: bytes) -> None:
        request_id: int | None = None
        try:
            request = messages.decode_request(line)
            if isinstance(request, messages.Answer):
                self._heard(request)
                return
            request_id = request.id
            await self._writable.wait()
            if not self._greeted:
                self._greet(request)
                return
            self.tell(await self._do(request))
        except messages.MessageError as error:
            await self._refuse(messages.Error(error=str(error), id=error.id))
        except (Refusal, DispatchError, TraceError) as refusal:
            await self._refuse(messages.Error(error=str(refusal), id=request_id))
        except Exception:
            _log.exception("a request of client %d failed", self.pid)
            text = "the daemon failed on this request; its log says how"
            self.tell(messages.Error(error=text, id=request_id))

    async def _refuse(self, error: messages.Error) -> None:
        await self._writable.wait()
        if self._greeted:
            self.tell(error)
        else:
            self._hang_up(error)

    def _greet(self, request: messages.Request) -> None:
        if not isinstance(request, messages.Hello):
            self._hang_up(messages.Error(id=request.id, error="the first message must be hello"))
            return
        if request.protocol != messages.PROTOCOL:
            text = (
                f"this is dprobed {__version__}, which speaks version {messages.PROTOCOL} of the "
                f"protocol, not {request.protocol}; use a client of the same version"
            )
            self._hang_up(messages.Error(id=request.id, error=text))
            return
        self._greeted = True
        if self._deadline is not None:
            self._deadline.cancel()
        self.tell(
            messages.Welcome(
                id=request.id,
                protocol=messages.PROTOCOL,
                version=__version__,
                pid=os.getpid(),
                uid=os.geteuid(),
                facilities=self._registry.delivery.dispatcher.facilities,
            )
        )

    def _heard(self, answer: messages.Answer) -> None:
        """A handler's answer. It does not wait for the client to read: it may have much to read."""
        if self._greeted:
            self._registry.delivery.external.answer(self, answer)
        else:
            self._hang_up(messages.Error(error="the first message must be hello"))

    async def _do(self, request: messages.Request) -> messages.Reply:
        registry = self._registry
        refusal = _FOR_ROOT.get(type(request))
        if refusal is not None and not registry.gate.commands(self):
            raise Refusal(refusal)
        match request:
            case messages.Attach(id=number, pid=pid, launch=launch, follow_forks=follow):
                await registry.attach(self, pid, launch, follow_forks=follow)
                return messages.Attached(id=number, pid=pid)
            case messages.Detach(id=number, pid=pid):
                probes, overhead = await registry.detach(self, pid)
                return messages.Removed(id=number, probes=probes, overhead_ns=overhead)
            case messages.Insert(id=number, pid=pid):
                entries = await registry.insert(self, request)
                return messages.Inserted(
                    id=number,
                    programs=[entry.info() for entry in entries],
                    probes=[info for entry in entries for info in entry.probe_infos()],
                )
            case messages.Deploy(id=number):
                made = await self._deployments.deploy(self, request)
                return messages.Deployed(id=number, deployments=listed(made))
            case messages.Remove(id=number, select=select):
                removed = await self._deployments.remove(self, select)
                return msgspec.structs.replace(removed, id=number)
            case _:
                return await self._look(request)

    async def _look(self, request: messages.Request) -> messages.Reply:
        registry = self._registry
        match request:
            case messages.Query(id=number, select=select):
                targets = await registry.query(self, select)
                chosen = registry.targets.select(self, select)
                return messages.Status(
                    id=number,
                    targets=[target.info() for target in targets],
                    probes=[info for entry in chosen for info in entry.probe_infos()],
                    deployments=listed(self._deployments.select(self, select)),
                    discovery=self._deployments.discovery(),
                    earlier=registry.earlier(self, select),
                )
            case messages.Programs(id=number, select=select):
                deployments = self._deployments.select(self, select)
                return messages.Listing(
                    id=number,
                    programs=[
                        entry.info()
                        for entry in registry.targets.select(self, select)
                        if select.pid is not None or not isinstance(entry.owner, Deployment)
                    ],
                    deployments=listed(deployments) if select.pid is None else [],
                )
            case messages.Vars(id=number, first=first):
                words = await registry.variables(self, request)
                return messages.Words(id=number, first=first, words=words)
            case messages.Log(id=number, follow=follow):
                return self._log(number, follow)
            case messages.Dump(id=number, pid=pid, zstd=zstd):
                done = await registry.dump(self, pid, zstd)
                return messages.Dumped(id=number, **msgspec.structs.asdict(done))
            case messages.Resume(id=number, pid=pid, tid=tid):
                return messages.Resumed(id=number, tids=await registry.resume(self, pid, tid))
            case _:
                return await self._handle(request)

    async def _handle(self, request: messages.Request) -> messages.Reply:
        delivery = self._registry.delivery
        external, dispatcher = delivery.external, delivery.dispatcher
        match request:
            case messages.Register(id=number, name=name):
                facility = external.register(self, request)
                return messages.Registered(id=number, handler=name, number=facility)
            case messages.Deregister(id=number, name=name):
                external.deregister(self, name)
                return messages.Registered(id=number, handler=name)
            case messages.Handlers(id=number):
                return messages.HandlerListing(id=number, handlers=external.infos())
            case messages.Arm(id=number, names=names):
                dispatcher.arm(names)
                return messages.HandlerListing(id=number, handlers=external.infos())
            case messages.Disarm(id=number, names=names):
                dispatcher.disarm(names)
                return messages.HandlerListing(id=number, handlers=external.infos())
            case _:
                return await self._trace(request)

    async def _trace(self, request: messages.Request) -> messages.Reply:
        traces = self._registry.delivery.traces
        match request:
            case messages.TraceStart(id=number):
                return messages.TraceListing(id=number, traces=[traces.start(request)])
            case messages.TraceStop(id=number, name=name):
                last = await traces.finish(traces.stop(name))
                return messages.TraceListing(id=number, traces=[last])
            case messages.TraceSave(id=number, name=name):
                return messages.TraceSaved(id=number, records=traces.save(name))
            case messages.TraceList(id=number):
                return messages.TraceListing(id=number, traces=traces.infos())
            case _:
                return await self._policy(request)

    async def _policy(self, request: messages.Request) -> messages.Reply:
        # Here, because only `dprobe policy` needs it.
        from dprobed.policy import describe

        gate = self._registry.gate
        match request:
            case messages.PolicyExplain(id=number, pid=pid):
                process = gate.show(self, pid)
                explanation = describe.explain(gate.policies, process)
                return messages.PolicyExplained(id=number, explanation=explanation)
            case messages.PolicyList(id=number):
                return self._policies(number)
            case messages.PolicyReload(id=number):
                await self._server.reload()
                return self._policies(number)
            case _:
                raise Refusal("hello was said already")

    def _policies(self, number: int) -> messages.PolicyListing:
        from dprobed.policy import describe

        store = self._registry.gate.store
        return messages.PolicyListing(
            id=number,
            policies=[describe.policy_info(each) for each in store.policies.policies],
            folder=readable(store.config.policies),
            problem=store.problem,
            protect=sorted(store.policies.protect),
        )

    def _log(self, number: int, follow: bool) -> messages.Logged:
        log = self._registry.delivery.log
        if log is None:
            raise Refusal("a private daemon keeps no log")

        def sees(uid: int) -> bool:
            return self._registry.gate.sees(self, uid)

        if self._transport is not None:
            self._transport.write(b"".join(log.lines(sees)))
        if follow:
            self._registry.delivery.followers.add(self)
        return messages.Logged(id=number, forgotten=log.forgotten(sees))


class Server:
    """Takes connections. ``on_last_gone`` is called when the last one has ended."""

    def __init__(self, registry: Registry, on_last_gone: Callable[[], None] | None = None) -> None:
        self.registry = registry
        self.deployments = Deployments(registry)
        self._applied = Applied(self.deployments, registry.gate.store)
        self._identities = Identities(registry.targets.became_another, self._decide_again)
        #: What is in is about to be decided about anew.
        self._deciding = False
        #: Two who have the policies read anew at the same time would put programs in twice.
        self._reloading = asyncio.Lock()
        self._on_last_gone = on_last_gone
        self._connections: set[Connection] = set()
        self._listener: socket.socket | None = None
        self._out_of_room = False

    def admit(self, connection: Connection) -> str:
        """Why this client may not command; empty if it may."""
        own, uid = os.geteuid(), connection.uid
        if own != 0 and uid not in (0, own):
            return f"only root and user {own} may command this dprobed; start one of your own"
        same = sum(each.uid == uid for each in self._connections)
        if uid not in (0, own) and same >= MAX_OF_A_USER:
            return f"{MAX_OF_A_USER} clients of user {uid} are connected already; try again later"
        if len(self._connections) >= MAX_CONNECTIONS * (2 if uid == 0 else 1):
            return f"{MAX_CONNECTIONS} clients are connected already; try again later"
        self._connections.add(connection)
        self.deployments.clients.add(connection)
        return ""

    def leave(self, connection: Connection) -> None:
        """A connection has ended."""
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        if not self._connections and self._on_last_gone is not None:
            self._on_last_gone()

    def has_room(self, connection: Connection) -> bool:
        """Whether the user of a connection leaves room for others."""
        if self.registry.gate.commands(connection):
            return True
        its = (each.held for each in self._connections if each.uid == connection.uid)
        return sum(its) <= BYTES_OF_A_USER

    def listen(self, sock: socket.socket) -> None:
        """Take connections on a listening socket."""
        peer.never_wait()
        sock.setblocking(False)
        self._listener = sock
        self._take_connections()

    def _take_connections(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock = peer.accept(listener)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # It is ready as long as it has not been taken.
            if not self._out_of_room:
                _log.error("no connection can be taken: %s", error.strerror)
            self._out_of_room = True
            loop.remove_reader(listener)
            loop.call_later(_ACCEPT_AGAIN, self._take_connections)
            return
        self._out_of_room = False
        sock.setblocking(False)
        self.registry.targets.later(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: Connection(self), sock)

    async def serve_one(self, sock: socket.socket) -> None:
        """Serve a socket that is connected already."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: Connection(self), sock=sock)

    async def begin(self) -> None:
        """Put in what the policies put in by themselves, and hold all to what they say."""
        if os.geteuid() == 0:  # Others do not serve several users.
            self._identities.start()
        async with self._reloading:
            await self._applied.update()

    async def reload(self) -> None:
        """Read the policy files anew, and hold what is in to what they say."""
        async with self._reloading:
            if problem := self.registry.gate.store.reload():
                _log.error("%s", problem)
                return
            _log.info("the policies were read anew")
            await self.registry.targets.check_again()
            await self._applied.update()
            self.deployments.look_again()

    def _decide_again(self) -> None:
        """Any process may be another user's now: once for all times that come together."""
        if not self._deciding:
            self._deciding = True
            self.registry.targets.later(self._check_again())

    async def _check_again(self) -> None:
        self._deciding = False
        await self.registry.targets.check_again()

    def stop(self) -> None:
        """Take no further connections, and put nothing into further processes."""
        self.deployments.stop()
        self._identities.stop()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()  # Who comes now is refused, and does not wait for our end.
            self._listener = None
