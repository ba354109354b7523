"""Kinds of notices: what happens in a target besides records, states and its end."""

from __future__ import annotations

from enum import StrEnum


class NoticeKind(StrEnum):
    """What a notice is about; its text is for people."""

    #: The process executed another program.
    EXEC = "exec"
    #: Probes were removed from a child, which is not followed.
    FORK = "fork"
    #: A child that should have probes has none.
    UNPROBED = "unprobed"
    #: Modules that should have probes may have none.
    LOADER = "loader"
    #: Its programs fire in a slower way than was asked for.
    ENGINE = "engine"
    #: A thread stands, for ``suspend``.
    SUSPEND = "suspend"
    #: The process stands for a debugger, or does not, though it should.
    DEBUGGER = "debugger"
    #: A core was written, or was not, though it should be.
    DUMP = "dump"
    #: The process has ended, and its core is being written.
    DUMPING = "dumping"
    #: Its probes are removed, but its tracer waits for a thread to wake.
    ASLEEP = "asleep"
    #: Something of ours stays in the process, because it cannot be taken out.
    STAYS = "stays"
    #: Notices were dropped, because the daemon took none.
    LOST = "lost"
    #: What a killed tracer had left in it is undone, or may not be.
    RECOVERED = "recovered"
    ORPHAN = "orphan"
    #: The process has ended, with programs in it that are kept.
    END = "end"
    #: A registered handler has died.
    HANDLER = "handler"
    #: The time of a program is over; none of its probes fires any more.
    OVER = "over"
    SPENT = "spent"
