"""Each step of loading and placing fails once: the error, and nothing is left behind."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from dprobed.kernel.abi import Kind, State
from dprobed.program.exits import DUMP
from tests.kernel import sample
from tests.kernel.device import (
    CLOSE,
    Device,
    address_of,
    check,
    insert_module,
    path,
    remove_module,
    text_of,
    write_text,
)
from tests.kernel.machine import Machine
from tests.kernel.test_bridge import PLACE, kernel_program

PROGRAM = kernel_program("push 1\nlog i32 x\nexit mine", "vars = 2\ngvars = 3")


def _fail_at(machine: Machine, step: int) -> None:
    write_text(machine, "/sys/module/dprobes/parameters/fail_at", str(step))


def _held(machine: Machine) -> tuple[str, int]:
    """How often the module is used, and its areas of memory."""
    ours, _ = machine.look_for("/proc/vmallocinfo", "[dprobes]")
    return text_of(machine, "/sys/module/dprobes/refcnt"), ours


def each_step(machine: Machine, attempt: Callable[[], None]) -> int:
    """Let each step of ``attempt`` fail, until it has no more; how many there were."""
    for step in range(1, 100):
        before = _held(machine)
        _fail_at(machine, step)
        try:
            attempt()
        except OSError as error:
            assert error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENODEV, errno.EBADF), step
        else:
            _fail_at(machine, 0)
            return step - 1
        assert _held(machine) == before, step
    raise AssertionError("it never works")


def test_loading(machine: Machine, device: Device) -> None:
    def attempt() -> None:
        device.load(PROGRAM, facilities={"mine": 9}).close()

    # Two CPUs, each with three parts.
    assert each_step(machine, attempt) == 22


def test_loading_what_dumps(machine: Machine, device: Device) -> None:
    def attempt() -> None:
        device.load(PROGRAM, facilities={"mine": DUMP}).close()

    # Each CPU has one part more.
    assert each_step(machine, attempt) == 24


def test_placing(machine: Machine, device: Device) -> None:
    loaded = device.load(PROGRAM, facilities={"mine": 9})

    def attempt() -> None:
        assert loaded.state() is State.COMPILED
        assert loaded.query().address == 0
        loaded.attach(PLACE)

    assert each_step(machine, attempt) == 3
    assert loaded.state() is State.ACTIVE
    loaded.close()


def test_placing_at_a_tracepoint(machine: Machine, device: Device) -> None:
    loaded = device.load(PROGRAM, facilities={"mine": 9})

    def attempt() -> None:
        assert (loaded.state(), loaded.query().address) == (State.COMPILED, 0)
        loaded.attach("task_rename", kind=Kind.TRACEPOINT)

    # Its name, and registering.
    assert each_step(machine, attempt) == 2
    assert loaded.state() is State.ACTIVE
    loaded.close()


def test_watching(machine: Machine, device: Device) -> None:
    loaded = device.load(PROGRAM, facilities={"mine": 9})
    address = address_of(machine, "panic_timeout")

    def attempt() -> None:
        assert (loaded.state(), loaded.query().address) == (State.COMPILED, 0)
        loaded.watch(Kind.WATCH_W, address, 4)

    assert each_step(machine, attempt) == 1
    assert loaded.state() is State.ACTIVE
    loaded.close()


def test_loading_the_module_itself(machine: Machine) -> None:
    assert remove_module(machine) == 0
    before = machine.look_for("/proc/vmallocinfo", "[dprobes]")[0]
    # The machines of two CPUs, two of /proc, events of modules, the device.
    for step in range(1, 8):
        with pytest.raises(OSError, match="ENOMEM"):
            insert_module(machine, f"fail_at={step}")
        assert path(machine, "/dev/dprobes", 0) == -errno.ENOENT
        assert path(machine, "/proc/dprobes", 0) == -errno.ENOENT
        assert machine.look_for("/proc/vmallocinfo", "[dprobes]")[0] == before
    insert_module(machine, "fail_at=8")
    _fail_at(machine, 0)
    with sample.loaded(machine):
        pass


def test_variables(machine: Machine, device: Device) -> None:
    loaded = device.load(PROGRAM, facilities={"mine": 9})
    loaded.set_vars(0, [3, 4])
    assert each_step(machine, lambda: loaded.set_vars(0, [5, 6])) == 1
    assert each_step(machine, lambda: assert_vars(loaded.get_vars(0, 2))) == 1
    loaded.close()


def assert_vars(words: list[int]) -> None:
    assert words == [5, 6]


def test_hooks_and_exits(machine: Machine) -> None:
    insert_module(machine, name="dpexits")
    run = "/sys/module/dpexits/parameters/run"

    def attempt(command: str) -> Callable[[], None]:
        def attempted() -> None:
            before = text_of(machine, "/proc/dprobes/hooks")
            try:
                write_text(machine, run, command)
            except OSError:
                assert text_of(machine, "/proc/dprobes/hooks") == before
                raise

        return attempted

    assert each_step(machine, attempt("place __x64_sys_getppid 0 0")) == 1
    # Its own module does not keep itself.
    assert each_step(machine, attempt("add 0 dpexits_dynamic 0 0 0")) == 0
    write_text(machine, run, "add 1 dpexits_plain 0 0 0")
    # The set has both, or none.
    assert each_step(machine, attempt("arm 3")) == 1
    assert text_of(machine, "/proc/dprobes/hooks").count("armed=1") == 2
    check(remove_module(machine, "dpexits"))


def test_placing_at_a_hook(machine: Machine, device: Device) -> None:
    insert_module(machine, name="dpexits")
    write_text(machine, "/sys/module/dpexits/parameters/run", "place __x64_sys_getppid 0 0")
    loaded = device.load(PROGRAM, facilities={"mine": 9})
    before = text_of(machine, "/proc/dprobes/hooks")

    def attempt() -> None:
        assert (loaded.state(), loaded.query().address) == (State.COMPILED, 0)
        assert text_of(machine, "/proc/dprobes/hooks") == before
        loaded.attach("dpexits_dynamic", kind=Kind.HOOK)

    # Its name, keeping the module, arming.
    assert each_step(machine, attempt) == 3
    assert loaded.state() is State.ACTIVE
    loaded.close()
    assert text_of(machine, "/proc/dprobes/hooks") == before
    check(remove_module(machine, "dpexits"))


def test_placing_at_a_return(machine: Machine, device: Device) -> None:
    loaded = device.load(PROGRAM, facilities={"mine": 9})

    def attempt() -> None:
        assert (loaded.state(), loaded.query().address) == (State.COMPILED, 0)
        loaded.attach(PLACE, kind=Kind.LEAVE)

    # Its name, registering, enabling.
    assert each_step(machine, attempt) == 3
    assert loaded.state() is State.ACTIVE
    loaded.close()


def test_placing_in_a_file(machine: Machine, device: Device) -> None:
    loaded = device.load(PROGRAM, facilities={"mine": 9})
    fd = check(path(machine, "/init", 0))

    def attempt() -> None:
        assert (loaded.state(), loaded.query().address) == (State.COMPILED, 0)
        loaded.attach("", kind=Kind.FILE, offset=4096, length=fd)

    # Taking the file, and registering.
    assert each_step(machine, attempt) == 2
    assert loaded.state() is State.ACTIVE
    loaded.close()
    check(machine.call(CLOSE, fd))
