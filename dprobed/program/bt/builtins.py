"""Names that mean something of their own: what they are, and the code that gets them."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from typing import Final

import msgspec

from dprobed.program.bt import bundle, kinds, tree
from dprobed.program.bt.kinds import BOOLEAN, LITERAL, UINT32, UINT64, Kind, ShownWord
from dprobed.program.bt.protocols import Coding, Inferring
from dprobed.program.bt.state import Firing, ScriptState, stack_error
from dprobed.program.registers import REGISTER_INDEX

#: Where a function finds its first arguments.
_ARGUMENT_REGISTERS: Final = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
#: And a system call.
_SYSTEM_CALL_REGISTERS: Final = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
_ARGUMENTS: Final = {f"arg{number}": number for number in range(64)}
#: What depends on the kernel, or is not there yet; the reason.
REFUSED: Final = {
    "cgroup": "is the kernel's",
    "jiffies": "is the kernel's: use nsecs",
    "numaid": "is not known in a process",
    "ppid": "is not known in a process",
    "pcomm": "is not known: use comm",
    "ctx": "is the kernel's",
    **{f"sarg{number}": "is not there: use reg() and a pointer" for number in range(10)},
}
#: Constants of C's headers that scripts use without including them.
CONSTANTS: Final = {
    **{name: number for number, name in errno.errorcode.items()},
    **{one.name: int(one) for one in signal.Signals},
    "AF_UNSPEC": 0, "AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "NULL": 0,
    "STDIN_FILENO": 0, "STDOUT_FILENO": 1, "STDERR_FILENO": 2,
    "O_RDONLY": 0, "O_WRONLY": 1, "O_RDWR": 2, "O_CREAT": 0o100, "O_EXCL": 0o200,
    "O_TRUNC": 0o1000, "O_APPEND": 0o2000, "O_NONBLOCK": 0o4000, "O_DIRECTORY": 0o200000,
    "O_CLOEXEC": 0o2000000, "AT_FDCWD": -100,
}  # fmt: skip

#: Names of registers: bpftrace's besides ours.
REGISTERS: Final = {
    **{name: f"r{name}" for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip")},
    "flags": "rflags",
}


class Builtin(msgspec.Struct, frozen=True):
    """A name: its kind, and the code that pushes it."""

    kind: Callable[[ScriptState, Firing], Kind]
    emit: Callable[[Coding], None]


def _fixed(kind: Kind, *instructions: str) -> Builtin:
    def emit(code: Coding) -> None:
        for one in instructions:
            code.to.add(one)

    return Builtin(lambda state, firing: kind, emit)


def _rand(code: Coding) -> None:
    """A number that looks like chance: the time and the thread, well mixed."""
    to = code.to
    for factor in (6364136223846793005, 0x9E3779B97F4A7C15):
        if factor == 6364136223846793005:
            to.add("push time")
            to.push(factor)
            to.add("mul")
            to.add("push tid")
            to.add("xor")
        else:
            to.add("dup count", 1)
            to.add("shr bits", 29)
            to.add("xor")
            to.push(factor)
            to.add("mul")
    to.add("shr bits", 32)


def _elapsed(code: Coding) -> None:
    to = code.to
    to.add("push time")
    if code.firing.short and code.firing.returns:
        code.kept("time")
    else:
        to.push(code.state.options.started)
    to.add("sub")


def _probe_text(firing: Firing) -> str:
    return firing.name


def _type_text(firing: Firing) -> str:
    return "special" if firing.kind in ("begin", "end") else firing.kind


def _constant(text: Callable[[Firing], str]) -> Builtin:
    def emit(code: Coding) -> None:
        code.to.push(code.state.string(text(code.firing)))

    return Builtin(lambda state, firing: state.constant(text(firing)), emit)


def _func_kind(state: ScriptState, firing: Firing) -> Kind:
    if firing.function:
        return state.constant(firing.function)
    return ShownWord(bundle.Symbol(False))


def _func(code: Coding) -> None:
    if code.firing.function:
        code.to.push(code.state.string(code.firing.function))
    else:
        code.to.add("push r,register", "rip")


def _caller(code: Coding) -> None:
    if code.firing.returns:
        code.to.add("push r,register", "rip")
    else:
        code.to.add("push r,register", "rsp")
        code.load(8)


def _number(value: Callable[[ScriptState], int], kind: Kind) -> Builtin:
    return Builtin(lambda state, firing: kind, lambda code: code.to.push(value(code.state)))


BUILTINS: Final[dict[str, Builtin]] = {
    "pid": _fixed(UINT32, "push pid"),
    "tid": _fixed(UINT32, "push tid"),
    "uid": _fixed(UINT64, "push uid"),
    "gid": _fixed(UINT64, "push gid"),
    "cpu": _fixed(UINT32, "push procid"),
    "nsecs": _fixed(UINT64, "push time"),
    "comm": _fixed(kinds.Short(), "push comm"),
    "username": _fixed(ShownWord(bundle.UserName()), "push uid"),
    "rand": Builtin(lambda state, firing: UINT32, _rand),
    "elapsed": Builtin(lambda state, firing: UINT64, _elapsed),
    "probe": _constant(_probe_text),
    "probetype": _constant(_type_text),
    "func": Builtin(_func_kind, _func),
    "caller": Builtin(lambda state, firing: ShownWord(bundle.Symbol()), _caller),
    "cpid": _number(lambda state: state.options.child, UINT32),
    "has_cpid": _number(lambda state: int(state.options.child != 0), BOOLEAN),
    "ncpus": _number(lambda state: state.options.cpus, UINT64),
    "usermode": Builtin(
        lambda state, firing: kinds.Integer(1, False),
        lambda code: code.to.push(int(not code.firing.kernel)),
    ),
    "curtask": _fixed(UINT64, "push task"),
}
#: What there is only at hits.
_OF_HITS: Final = ("func", "caller")
#: What there is only in the kernel, or only in processes.
_OF_KERNEL: Final = ("curtask",)
_OF_PROCESSES: Final = ("caller",)


def builtin_kind(inference: Inferring, one: tree.Name) -> Kind | None:
    """The kind of a name; None: it means nothing."""
    name, firing = one.name, inference.firing
    if name in CONSTANTS:
        return LITERAL
    if name in _ARGUMENTS:
        return _argument_kind(inference, one)
    if name == "retval":
        if not firing.returns:
            return inference.wrong(
                one.span,
                "`retval` is what a function returns, at its return",
                "write uretprobe:MODULE:FUNCTION or FUNCTION:return",
            )
        return result_kind(inference.state, firing)
    if name in ("ustack", "kstack"):
        wrong = stack_error(name, firing)
        if wrong is not None:
            return inference.wrong(one.span, *wrong)
        return kinds.Stack(inference.state.stack_mode, 127, name == "kstack")
    builtin = BUILTINS.get(name)
    if builtin is None:
        if name in REFUSED:
            return inference.wrong(one.span, f"`{name}` {REFUSED[name]}")
        return None
    if firing.kernel != (name in _OF_KERNEL) and name in (*_OF_KERNEL, *_OF_PROCESSES):
        why = "is not there in the kernel yet" if firing.kernel else "is the kernel's: it is there"
        more = "" if firing.kernel else " at kprobes"
        return inference.wrong(one.span, f"`{name}` {why}{more}")
    if name in _OF_HITS and not firing.hit:
        return inference.wrong(one.span, f"`{name}` is of a process, and a block has none")
    return builtin.kind(inference.state, firing)


def _argument_kind(inference: Inferring, one: tree.Name) -> Kind:
    firing, number = inference.firing, _ARGUMENTS[one.name]
    if not firing.hit:
        return inference.wrong(one.span, f"`{one.name}` is of a function, and a block has none")
    if firing.watch:
        return inference.wrong(
            one.span, f"`{one.name}` at a watchpoint, which is no function", "use reg()"
        )
    if not (firing.entry or firing.static or firing.returns) and number > 5:
        return inference.wrong(
            one.span, f"`{one.name}` is not in a register", "it is there at the function's entry"
        )
    return UINT64


def result_kind(state: ScriptState, firing: Firing) -> Kind:
    """The kind of what a function returns: bpftrace's probes say a number, unless debug information
    says that it is a floating-point one, in another register; ours, what debug information says."""
    if not firing.function:
        return UINT64
    if firing.result is None:
        firing.result = state.world.result(firing.module, firing.function)
    if firing.result is None:
        return UINT64
    kind = kinds.of_type(state.types, state.types.take(firing.result))
    if isinstance(kind, kinds.Float):
        return kind
    return UINT64 if kind is None or isinstance(kind, kinds.Object) or not firing.short else kind


def _emit_result(code: Coding) -> None:
    kind, to = result_kind(code.state, code.firing), code.to
    if isinstance(kind, kinds.Float):
        to.add("push r,register", "xmm0")
        to.add("xchg")
        to.drop()
        return
    to.add("push r,register", "rax")
    result = code.firing.result
    size = 8 if result is None else code.types.size(code.types.take(result))
    if kind is not UINT64 and size < 8:
        signed = isinstance(kind, kinds.Integer) and kind.signed
        to.add("pbl bit" if signed else "pzl bit", 8 * size)


def argument_of(name: str) -> int | None:
    """The number of `arg0` and its like; None: it is none."""
    return _ARGUMENTS.get(name)


def is_builtin(name: str) -> bool:
    """Whether a name means something of its own."""
    return (
        name in BUILTINS
        or name in CONSTANTS
        or name in _ARGUMENTS
        or name in ("retval", "ustack", "kstack")
    )


def emit_name(code: Coding, one: tree.Name) -> None:
    """Push what a name means."""
    name = one.name
    if name in _ARGUMENTS:
        emit_argument(code, _ARGUMENTS[name])
    elif name == "retval":
        _emit_result(code)
    elif name in CONSTANTS and name not in BUILTINS:
        code.to.push(CONSTANTS[name])
    elif name in BUILTINS:
        BUILTINS[name].emit(code)


def emit_argument(code: Coding, number: int) -> None:
    """Push an argument of the function or static probe."""
    firing = code.firing
    if firing.returns:
        code.kept(number)
    elif firing.entry or firing.static:
        code.to.add("push a,argument", number)
    else:
        code.to.add("push r,register", argument_register(firing, min(number, 5)))


def argument_register(firing: Firing, number: int) -> str:
    """The register of one of the first six arguments."""
    is_call = firing.system_call is not None
    return (_SYSTEM_CALL_REGISTERS if is_call else _ARGUMENT_REGISTERS)[number]


def register(name: str) -> str | None:
    """The register of a name; None: there is none."""
    name = name.lower()
    name = REGISTERS.get(name, name)
    return name if name in REGISTER_INDEX else None
