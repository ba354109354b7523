"""The settings of a script's config block, and those of the environment, which go before them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dprobed.program.bt.source import Problems, SourceText, TextSpan
from dprobed.program.bt.tree import Setting

_NUMBERS: Final = {
    "max_strlen": (1, 16384), "max_map_keys": (1, 1 << 16), "max_cat_bytes": (1, 1 << 30),
    "max_probes": (1, 1 << 20), "max_bpf_progs": (1, 1 << 30), "log_size": (1, 1 << 40),
    "perf_rb_pages": (1, 1 << 30), "on_stack_limit": (1, 1 << 30), "max_type_res_iterations":
    (0, 1 << 30), "max_ast_nodes": (0, 1 << 30),
}  # fmt: skip
_TRUTHS: Final = (
    "cpp_demangle",
    "lazy_symbolication",
    "print_maps_on_exit",
    "show_debug_info",
    "use_blazesym",
    "probe_inline",
)
_WORDS: Final = {
    "stack_mode": ("bpftrace", "perf", "raw", "build_id"),
    "missing_probes": ("error", "warn", "ignore"),
    "cache_user_symbols": ("PER_PROGRAM", "PER_PID", "NONE", "1", "0"),
    **dict.fromkeys(
        ("unstable_map_decl", "unstable_tseries", "unstable_addr", "unstable_import",
         "unstable_macro"),
        ("error", "warn", "enable", "0", "1"),
    ),
}  # fmt: skip
_TEXTS: Final = ("license", "symbol_source")
#: What is not there: only without a text.
_TRAILER: Final = "str_trunc_trailer"
_NAMES: Final = (*_NUMBERS, *_TRUTHS, *_WORDS, *_TEXTS, _TRAILER)
_BOOLEANS: Final = {"true": 1, "1": 1, "false": 0, "0": 0}


def settings(
    given: list[Setting], problems: Problems, environment: Mapping[str, str]
) -> dict[str, str | int]:
    """What holds, by name."""
    found: dict[str, str | int] = {}
    for one in given:
        name = one.name.lower().removeprefix("bpftrace_")
        value = _value(name, one.value)
        if value is None:
            message, hint = _reason(name, one.value)
            problems.add(one.span, message, hint)
        else:
            found[name] = value
    for name, text in environment.items():
        value = _value(name, text)
        if value is not None:
            found[name] = value
        elif name in _NAMES:
            written = f"BPFTRACE_{name.upper()}={text}"
            span = TextSpan(SourceText("environment", written), 0, len(written))
            problems.add(span, *_reason(name, text))
    return found


def _value(name: str, text: str) -> str | int | None:
    if name in _NUMBERS:
        low, high = _NUMBERS[name]
        number = int(text) if text.isdecimal() and len(text) < 20 else -1
        return number if low <= number <= high else None
    if name in _TRUTHS:
        return _BOOLEANS.get(text.lower())
    if name in _WORDS:
        return text if text in _WORDS[name] else None
    return text if name in _TEXTS or (name == _TRAILER and not text) else None


def _reason(name: str, text: str) -> tuple[str, str]:
    if name in _NUMBERS:
        low, high = _NUMBERS[name]
        return f"`{name}` is {low} to {high}, not `{text}`", ""
    if name in _TRUTHS:
        return f"`{name}` is true or false, not `{text}`", ""
    if name in _WORDS:
        return f"`{name}` is none of {', '.join(_WORDS[name])}", ""
    if name == _TRAILER:
        return (
            f"`{name}` is not there yet: a text that is cut off ends without a mark",
            "leave it out, or have longer texts by max_strlen",
        )
    from difflib import get_close_matches

    near = get_close_matches(name, _NAMES, 1)
    return f"there is no setting `{name}`", f"did you mean `{near[0]}`?" if near else ""
