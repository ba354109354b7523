"""What is at an address of a process, for who shows records."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dprobe.lib import symbolize
from dprobe.lib.errors import UserError
from dprobe.view.output import Output

from dprobed.record.record import Record
from tests.unit.client.test_output import record

LIBC = ctypes.CDLL(None)
COMM = Path("/proc/self/comm").read_text().strip()


def address_of(name: str) -> int:
    found = ctypes.cast(getattr(LIBC, name), ctypes.c_void_p).value
    assert found
    return found


def test_code_and_variables_have_their_names() -> None:
    addresses = symbolize.Addresses()
    write = address_of("write")
    assert addresses.place(os.getpid(), write, COMM).endswith("write+0x0")
    assert addresses.place(os.getpid(), write + 5, COMM).endswith("write+0x5")
    environ = ctypes.addressof(ctypes.c_char_p.in_dll(LIBC, "stderr"))
    assert "+0x0" in addresses.place(os.getpid(), environ, COMM)
    assert addresses.place(os.getpid(), 16, COMM) == ""


def test_a_process_that_is_gone_has_no_names() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert symbolize.Addresses().place(pid, address_of("write"), COMM) == ""


def test_one_that_has_ended_has_those_that_were_known() -> None:
    """Its last records come when it is gone; what had another name may be another program."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    os.close(ours)
    addresses = symbolize.Addresses()
    assert addresses.place(pid, address_of("write"), COMM).endswith("write+0x0")
    os.close(theirs)
    os.waitpid(pid, 0)
    assert addresses.place(pid, address_of("write") + 5, COMM).endswith("write+0x5")
    assert addresses.place(pid, address_of("write"), "another") == ""
    assert addresses.place(pid, 16, COMM) == ""


def test_mappings_are_not_read_for_each_unknown_address(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def refuse(pid: int) -> Any:
        looks.append(pid)
        raise UserError("no")

    monkeypatch.setattr(symbolize, "files_of_process", refuse)
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    addresses = symbolize.Addresses()
    assert [addresses.place(os.getpid(), each, COMM) for each in range(100)] == [""] * 100
    assert looks == [os.getpid()]


@pytest.mark.parametrize("live", [True, False])
def test_records_name_their_addresses_while_the_process_runs(tmp_path: Path, live: bool) -> None:
    item = {"value": address_of("write") + 2, "kind": "ptr", "name": "caller"}
    made = record(pid=os.getpid(), log=[item])
    texts = {}
    for form in ("text", "json"):
        path = tmp_path / form
        output = Output(form, str(path), 1, live=live)
        output.record(msgspec.json.encode(made))
        output.flush()
        output.close()
        texts[form] = path.read_text()
    (shown,) = msgspec.json.decode(texts["json"], type=Record).log
    if live:
        assert texts["text"].rstrip().endswith("write+0x2")
        assert shown["place"].endswith("write+0x2")
    else:
        assert texts["text"].rstrip().endswith(f"caller={item['value']:#x}")
        assert "place" not in shown
