""" "Did you mean": names that are similar to an unknown one."""

from __future__ import annotations

from typing import Final

_MOST: Final = 5


def similar(name: str, names: list[str]) -> list[str]:
    """At most five of ``names`` that are similar to ``name``, the nearest first."""
    # Only who asks for what is not there waits for this import.
    from difflib import SequenceMatcher

    lower = name.lower()
    letters = set(lower)
    scored: list[tuple[float, str]] = []
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(lower)
    # A function of C++ or Rust has its name, with the length before it, in that of the symbol.
    mangled = f"{len(name)}{name}"
    for other in names:
        if mangled in other and other.startswith(("_Z", "_R")):
            scored.append((1.5, other))
            continue
        candidate = other.lower()
        if candidate.split(".", 1)[0] == lower or candidate.strip("_") == lower.strip("_"):
            scored.append((2.0, other))
            continue
        # Cheap bounds first: most of thousands of names differ in length or letters.
        if abs(len(candidate) - len(lower)) > max(2, len(lower) // 3):
            continue
        if len(letters ^ set(candidate)) > max(2, len(letters) // 2):
            continue
        matcher.set_seq1(candidate)
        if matcher.quick_ratio() >= 0.75:
            ratio = matcher.ratio()
            if ratio >= 0.75:
                scored.append((ratio, other))
    scored.sort(key=lambda item: (-item[0], len(item[1]), item[1]))
    return [other for _, other in scored[:_MOST]]
