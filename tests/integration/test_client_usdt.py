"""Static probes (USDT): listed, and probed where the list says that they are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.integration.client_support import dprobe, parsed, program, words

#: What DTRACE_PROBE1(shop, sold, count) of sys/sdt.h makes.
SOURCE = r"""
__attribute__((noinline)) static void sell(int count)
{
    __asm__ volatile(
        "990: nop\n"
        ".pushsection .note.stapsdt,\"\",\"note\"\n"
        ".balign 4\n"
        ".4byte 992f-991f, 994f-993f, 3\n"
        "991: .asciz \"stapsdt\"\n"
        "992: .balign 4\n"
        "993: .8byte 990b, _.stapsdt.base, 0\n"
        ".asciz \"shop\"\n"
        ".asciz \"sold\"\n"
        ".asciz \"-4@%%edi\"\n"
        "994: .balign 4\n"
        ".popsection\n"
        ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"
        ".weak _.stapsdt.base\n"
        ".hidden _.stapsdt.base\n"
        "_.stapsdt.base: .space 1\n"
        ".popsection\n"
        :
        : "D"(count));
}

int main(void)
{
    sell(3);
    sell(4);
    return 0;
}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.c").write_text(SOURCE)
    binary = tmp_path / "shop"
    subprocess.run(["gcc", "-O1", tmp_path / "shop.c", "-o", binary], check=True, timeout=60)
    return binary


def test_a_static_probe_is_listed_and_fires(shop: Path, tmp_path: Path) -> None:
    notes = subprocess.run(
        ["readelf", "-nW", shop], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    location = re.search(r"Location: 0x0*([0-9a-f]+)", notes)
    assert location is not None
    (row,) = parsed(dprobe("places", "--usdt", "--json", shop).stdout)
    assert (row["provider"], row["name"], row["arguments"]) == ("shop", "sold", "-4@%edi")
    assert (row["address"], row["semaphore"]) == (f"0x{location[1]}", "")
    text = f"name = shop\noffset = {row['offset']}\nopcode = 0x90\n push r,rdi\n log 1\n exit\n"
    options = ("--format", "json", "-o", "-")
    done = dprobe("run", *options, program(tmp_path, text), "--", shop)
    assert [words(record) for record in parsed(done.stdout)[:-1]] == [[3], [4]]


def test_a_pattern_chooses_among_them(shop: Path) -> None:
    for pattern in ("sold", "shop:*", "s*"):
        assert len(parsed(dprobe("places", "--usdt", "--json", shop, pattern).stdout)) == 1
    done = dprobe("places", "--usdt", shop, "bought")
    assert done.stderr == f"dprobe: no static probe in {shop} matches bought\n"
