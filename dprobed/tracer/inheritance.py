"""Fork children of a target: followed or detached from; and the target itself at ``exec``.

Each program says whether it follows ``fork`` children. If none does, our changes are undone in the
child, and we detach from it. Else it becomes a target of its own before it has run an
instruction: the breakpoints in its copy of the memory are taken over as they are, the variables of
programs that follow begin with what they are in the parent, counters with 0; other programs are
removed from it. A child that shares the memory (``vfork``) belongs to its parent's target until it
has memory of its own, at ``exec``.

A child whose memory is closed to us is *sealed*: it stays a target without programs, which nobody
is told of, whose breakpoints do nothing, until it ends or executes another program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from dprobed.engine.errors import SpaceError
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracer.inserted import VariableValues
from dprobed.tracer.probed_target import ProbedTarget
from dprobed.tracer.reporter import Reporter
from dprobed.wire import protocol


class InheritingTarget(ProbedTarget, Protocol):
    """The parts of a target that its fork children inherit or need."""

    @property
    def pid(self) -> int:
        """Its process."""
        ...

    @property
    def options(self) -> protocol.Attach:
        """The options of its attach request, as adjusted since."""
        ...

    @property
    def inheritance(self) -> Inheritance:
        """Handles its own fork children."""
        ...

    @property
    def is_changing(self) -> bool:
        """Whether probes are still to be inserted (throttled ones)."""
        ...


class ChildTargets(Protocol):
    """Makes targets of fork children."""

    def follow(self, parent: InheritingTarget, pid: int) -> InheritingTarget | None:
        """A followed child, with the options of its parent; None: there are too many targets."""
        ...

    def adopt_sealed(self, parent: InheritingTarget, pid: int) -> InheritingTarget:
        """A sealed child: a target only because we cannot detach from it."""
        ...


class Inheritance:
    """Handles fork children and ``exec`` of one target. ``new_image`` is called at its ``exec``."""

    def __init__(
        self,
        target: InheritingTarget,
        child_targets: ChildTargets,
        reporter: Reporter,
        new_image: Callable[[Thread], None],
    ) -> None:
        #: The parent was being changed when it forked: place what is missing in this copy.
        self.is_incomplete = False
        self._target: Final = target
        self._child_targets: Final = child_targets
        self._reporter: Final = reporter
        self._exec: Final = new_image
        #: The programs' variables at the fork of each child that has not made its first stop.
        self._at_fork: Final[dict[int, VariableValues]] = {}

    @property
    def is_sealed(self) -> bool:
        """Whether the target is a child that we could not detach from."""
        return self._target.engines.space.sealed

    # --- children ---

    def forked(self, thread: Thread, child: int) -> None:
        """A child is made: keep the present variables for it, until its first stop, and which calls
        it will return from."""
        if self._target.programs.that_follow():
            self._at_fork[child] = self._target.programs.variables_now()
            self._target.engines.stops.calls.forking(thread, child)

    def forget(self, tid: int) -> None:
        """A child ended, perhaps before its first stop."""
        self._at_fork.pop(tid, None)

    def begin(self, thread: Thread) -> None:
        """A forked process made its first stop: follow it, or detach without our changes."""
        target = self._target
        try:
            if target.programs.that_follow() and self._follow(thread, copied=True) is not None:
                return
            target.engines.release_child(thread)
        except SpaceError as error:
            self._adopt_sealed(thread)
            target.tell(
                "unprobed",
                "a child stays traced, without probes, until it ends or executes a program, "
                f"because our breakpoints cannot be removed from it: {error}",
                thread.tid,
            )
            return
        except Gone:
            return
        target.tell("fork", "detached from a child, which goes on without probes", thread.tid)

    def _adopt_sealed(self, thread: Thread) -> None:
        """Adopt a sealed child: it keeps its copy of our breakpoints, which would kill it alone."""
        child = self._child_targets.adopt_sealed(self._target, thread.tgid)
        self._target.group.hand_over(thread, child.group)
        child.engines.use_copy(self._target.engines.sealed(thread.tgid))
        child.engines.begin(thread)

    def _follow(self, thread: Thread, copied: bool) -> InheritingTarget | None:
        """Make a child a target of its own; None: it could not be, and nothing was done.

        ``copied``: its memory is a copy of ours; else it has just got new one. Raises Gone.
        """
        target = self._target
        try:
            copy = target.engines.copied(thread) if copied else None
        except SpaceError as error:
            target.tell("unprobed", f"a child is not followed: {error}", thread.tid)
            return None
        child = self._child_targets.follow(target, thread.tgid)
        if child is None:
            if copy is not None:
                copy.space.close()
            behind = self._reporter.is_behind
            why = "the daemon takes no messages" if behind else "too many processes"
            target.tell("unprobed", f"{why}: a child is not followed", thread.tid)
            return None
        target.group.hand_over(thread, child.group)
        try:
            if copy is not None:
                child.engines.use_copy(copy)
            variables = self._at_fork.pop(thread.tid, None) or target.programs.variables_now()
            child.programs.take_over(target.programs, variables)
            self._reporter.send(protocol.Forked(child.pid, target.pid, child.programs.statuses()))
            if copy is not None:
                child.programs.take_over_places(target.programs)
                child.inheritance.begin_copied(thread, target)
        except Gone:
            pass  # killed; its exit status comes next
        except Exception as error:
            # It stays stopped until our changes are undone in it.
            thread.pinned = True
            child.group.fail(error)
        return child

    def begin_copied(self, thread: Thread, parent: InheritingTarget) -> None:
        """The first stop of this target, which has a copy of its parent's memory; raises Gone."""
        engines = self._target.engines
        engines.take_over_copy(parent.engines)
        engines.begin(thread)
        is_prepared = self._target.programs.places.is_prepared
        if parent.group.is_stopped or parent.is_changing or not is_prepared:
            self.is_incomplete = True
            self._target.group.request_attention()

    def is_fork_copy(self, pid: int) -> bool:
        """Whether a process has a copy of the target's memory with our changes in it."""
        group = self._target.group
        # Added to the group while a remote system call may have to make its memory readable.
        thread = group.add(Thread(pid, pid, State.STOPPED, group))
        try:
            return self._target.engines.is_fork_copy(thread)
        finally:
            group.drop(pid)

    # --- exec ---

    def new_image(self, thread: Thread) -> None:
        """The target did ``exec``: insert the probes into the new address space."""
        target = self._target
        if thread.tgid != target.pid:
            self._part(thread)
            return
        if self.is_sealed:
            target.group.detach(thread)
            target.group.request_attention()
            return
        target.group.await_children(thread)
        self._exec(thread)
        self._leave_space()
        target.programs.places.forget()
        try:
            target.programs.enter_image(thread)
        except Gone:
            return
        target.tell("exec", f"process {target.pid} runs a new program")
        self._reporter.send(protocol.Changed(target.pid, target.programs.statuses()))

    def _part(self, thread: Thread) -> None:
        """A vfork child did ``exec``, and has memory of its own now: follow or detach."""
        child = None
        self._target.engines.stops.calls.ended(thread.tid)
        try:
            if self._target.programs.that_follow():
                child = self._follow(thread, copied=False)
        except Gone:
            return
        if child is None:
            self._target.group.detach(thread)
        elif child.group.failure is None:
            child.inheritance.new_image(thread)

    def _leave_space(self) -> None:
        """The old address space is gone, unless a CLONE_VM child still uses it."""
        target = self._target
        group = target.group
        heirs = [t for t in group.threads.values() if t.tgid != target.pid]
        if heirs:
            with group.stopped() as unstoppable:
                target.engines.disarm_all(unstoppable)
                for thread in heirs:
                    # Not one that has left us meanwhile, to be a target of its own.
                    here = thread.group is group and not thread.busy
                    if here and thread.state in (State.STOPPED, State.HELD):
                        group.detach(thread)
        target.engines.exec()
