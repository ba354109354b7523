"""The kernel's symbols, as the kernel lists them."""

from __future__ import annotations

from pathlib import Path

from dprobed.proc.kernel_symbols import symbols


def test_kinds_and_modules(tmp_path: Path) -> None:
    listed = tmp_path / "kallsyms"
    listed.write_text(
        "ffffffff81000000 T schedule\n"
        "ffffffff81000100 t step.isra.0\n"
        "ffffffff82000000 D jiffies\n"
        "000000000001fb00 A per_cpu\n"
        "000000000001fb00 D of_each_processor\n"
        "ffffffff82100000 D __tracepoint_task_rename\n"
        "ffffffffc0001000 b count\t[nf_tables]\n"
        "ffffffffc0002000 a version\t[nf_tables]\n"
    )
    found = [(each.place, each.kind, each.module) for each in symbols(listed)]
    assert found == [
        ("schedule", "code", ""),
        ("step.isra.0", "code", ""),
        ("jiffies", "data", ""),
        ("per_cpu", "", ""),
        ("of_each_processor", "", ""),
        ("tracepoint:task_rename", "tracepoint", ""),
        ("count", "data", "nf_tables"),
        ("version", "", "nf_tables"),
    ]


def test_for_whom_the_addresses_are_hidden(tmp_path: Path) -> None:
    listed = tmp_path / "kallsyms"
    listed.write_text("0000000000000000 T schedule\n0000000000000000 D jiffies\n")
    assert [(each.address, each.kind) for each in symbols(listed)] == [(0, "code"), (0, "data")]
