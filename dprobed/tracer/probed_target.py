"""What those who work for a target see of it, all of them."""

from __future__ import annotations

from typing import Protocol

from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.engines import Engines
from dprobed.tracer.programs import Programs
from dprobed.wire.notices import NoticeKind


class ProbedTarget(Protocol):
    """A target with its threads, its engines and its programs."""

    @property
    def group(self) -> ThreadGroup:
        """Its traced threads."""
        ...

    @property
    def engines(self) -> Engines:
        """The engines that serve its probes."""
        ...

    @property
    def programs(self) -> Programs:
        """The programs inserted into it."""
        ...

    def tell(self, kind: NoticeKind, text: str, tid: int = 0) -> None:
        """Send a notice to the daemon; ``tid``: the thread that it is about."""
        ...
