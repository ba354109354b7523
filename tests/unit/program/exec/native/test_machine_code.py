"""Machine code is looked at before it may run in a target: what it must not do is refused."""

from __future__ import annotations

import pytest

from dprobed.program.exec.native.machine_code import MachineCodeError, checked
from dprobed.program.registers import USER_REGS

RET = "c3"


def test_what_code_takes_and_changes_is_told() -> None:
    # push rbx; sub rsp, 16; call f; add rsp, 16; pop rbx; ret
    # f: push rax; xor ecx, ecx; pop rax; ret
    code = bytes.fromhex("53 4883ec10 e806000000 4883c410 5b c3 50 31c9 58 c3")
    found = checked(code)
    # Its return address, rbx, 16 bytes, the address for f, and what that pushes.
    assert found.stack_bytes == 8 + 8 + 16 + 8 + 8
    changed = {USER_REGS[n] for n in range(len(USER_REGS)) if found.clobbers >> n & 1}
    assert changed == {"rax", "rcx"}


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("0f57c0" + RET, "is of no kind that is expected"),  # xorps xmm0, xmm0
        ("d9e8" + RET, "is of no kind that is expected"),  # fld1
        ("0f20c0" + RET, "touches more than general registers"),  # mov rax, cr0
        ("8ed8" + RET, "alters a segment register"),  # mov ds, eax
        ("ffd0" + RET, "a jump by a pointer at 0x0"),  # call rax
        ("ffe0", "a jump by a pointer at 0x0"),  # jmp rax
        ("e900100000", "a jump out of the code, to 0x1005"),
        ("e800100000" + RET, "a jump out of the code, to 0x1005"),
        ("50" + RET, "the stack is not level at a return"),  # push rax
        ("4801c4" + RET, "the stack is moved by what is not known"),  # add rsp, rax
        ("e8fbffffff" + RET, "a function calls itself"),
        ("750150" + RET, "the stack at 0x3 is of two depths"),  # jne past a push
        ("06", "no instruction at 0x0"),
    ],
)
def test_what_code_must_not_do(code: str, why: str) -> None:
    with pytest.raises(MachineCodeError) as caught:
        checked(bytes.fromhex(code))
    assert why in str(caught.value)
