"""Functions that are ours: they alter a process or hand a hit over. What is refused by name."""

from __future__ import annotations

from typing import Final

from dprobed.program.bt import bundle, tree
from dprobed.program.bt.code_log import log_action
from dprobed.program.bt.functions import Emit, function
from dprobed.program.bt.kinds import (
    VOID,
    Kind,
    is_word,
)
from dprobed.program.bt.protocols import Coding, Inferring


@function("skip", "skip(VALUE[, ERROR])", 1, 2, "return from the function at once")
class _Skip:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        for each in call.arguments:
            if not is_word(inference.expression(each)):
                inference.wrong(each.span, "a function returns a number or a pointer")
        if not inference.firing.entry:
            inference.wrong(
                call.span,
                "only a function that is entered can be skipped",
                "place the probe at a function",
            )
        return VOID

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        to = code.to
        if len(call.arguments) > 1:
            to.add("push tls,symbol", "errno")
            code.expression(call.arguments[1])
            to.add("pop mem,u32")
        # What can fail comes first: then nothing was altered.
        code.expression(call.arguments[0])
        to.add("push r,register", "rsp")
        to.add("push mem,u64")
        to.add("xchg")
        to.add("pop r,register", "rax")
        to.add("push r,register", "rsp")
        to.push(8)
        to.add("add")
        to.add("pop r,register", "rsp")
        to.add("pop r,register", "rip")


def _ending(name: str, usage: str, meaning: str, most: int, emit: Emit) -> None:
    """A function that ends the probe and hands its record over."""

    class _Ending:
        @staticmethod
        def infer(inference: Inferring, call: tree.Call) -> Kind:
            for each in call.arguments:
                once = isinstance(each, tree.Name) and each.name == "once"
                good = once if name == "dump" else isinstance(each, tree.Text)
                if not good:
                    inference.wrong(each.span, f"write {usage}")
            if not inference.firing.hit:
                inference.wrong(call.span, f"`{name}` is of a process, and a block has none")
            return VOID

        @staticmethod
        def emit(code: Coding, call: tree.Call) -> None:
            emit(code, call)

    function(name, usage, int(name == "exit_to"), most, meaning)(_Ending)


def _dump(code: Coding, call: tree.Call) -> None:
    once = " once" if call.arguments else ""
    code.end_by(f"exit facility{once}", "dump")


_ending("dump", "dump() or dump(once)", "write a core of the process", 1, _dump)
_ending(
    "debugger",
    "debugger()",
    "hold the process for a debugger",
    0,
    lambda code, call: code.end_by("exit facility", "debugger"),
)
_ending(
    "exit_to",
    'exit_to("NAME")',
    "hand the record to a handler",
    1,
    lambda code, call: code.end_by("exit facility", call.arguments[0].value),
)
_ending(
    "rem",
    "rem()",
    "this probe is through: take it out",
    0,
    lambda code, call: code.end_by("rem", None),
)


@function("unwatch", "unwatch(ADDRESS)", 1, 1, "watch an argument's address no longer")
class _Unwatch:
    @staticmethod
    def infer(inference: Inferring, call: tree.Call) -> Kind:
        if not is_word(inference.expression(call.arguments[0])):
            inference.wrong(call.arguments[0].span, "an address is a number or a pointer")
        if not inference.firing.hit:
            inference.wrong(call.span, "`unwatch` is of a process, and a block has none")
        return VOID

    @staticmethod
    def emit(code: Coding, call: tree.Call) -> None:
        log_action(code, bundle.Unwatch(), call.arguments)


# -- refused --------------------------------------------------------------------------------------

REFUSED: Final = {
    **dict.fromkeys(
        ("ksym", "kaddr", "kptr", "percpu_kaddr", "cgroupid", "cgroup_path", "override",
         "path", "skboutput", "socket_cookie", "kfunc_exist", "kfunc_allowed"),
        "is about the kernel, which a probe in a process does not see",
    ),
    **dict.fromkeys(
        ("signal", "signal_thread", "syscall_name", "globmatch", "memcmp",
         "strcap", "fail"),
        "is not there yet",
    ),
}  # fmt: skip


def _refused(name: str, why: str) -> None:
    class _Refused:
        @staticmethod
        def infer(inference: Inferring, call: tree.Call) -> Kind:
            return inference.wrong(call.span, f"`{name}` {why}")

        @staticmethod
        def emit(code: Coding, call: tree.Call) -> None:
            """Never: it was refused."""

    function(name, f"{name}(…)", 0, 64, why)(_Refused)


for _name, _why in REFUSED.items():
    _refused(_name, _why)
