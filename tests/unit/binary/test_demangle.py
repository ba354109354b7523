"""Names as in the source."""

from __future__ import annotations

import pytest

from dprobed.binary.demangle import demangled


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("main", "main"),
        ("_ZN4llvm3fooEi", "llvm::foo(int)"),
        (
            "_ZNSt6vectorIiSaIiEE9push_backERKi",
            "std::vector<int, std::allocator<int>>::push_back(int const&)",
        ),
        ("_ZN1A1fEv.cold", "A::f() (.cold)"),
        ("_RNvC6_123foo3bar", "123foo::bar"),
        ("_ZN4core3fmt9Formatter3pad17h9b2b3a0e5b4d1b31E", "core::fmt::Formatter::pad"),
        (
            "_ZN58_$LT$alloc..string..String$u20$as$u20$core..fmt..Write$GT$9write_str"
            "17h0123456789abcdefE",
            "<alloc::string::String as core::fmt::Write>::write_str",
        ),
        ("_ZN99short17h0123456789abcdefE", "_ZN99short17h0123456789abcdefE"),
        ("_Z", "_Z"),
        ("_Znotreal", "_Znotreal"),
        ("_Z" + "N" * 5000, "_Z" + "N" * 5000),
        ("", ""),
    ],
)
def test_names(name: str, expected: str) -> None:
    assert demangled(name) == expected
