"""The operand of instructions for values of several words in maps (``Operand.CELL``)."""

from __future__ import annotations


def cell_words(operand: int) -> int:
    """How many words it says."""
    return operand & 0xFFFF


def cell_operand(index: int, words: int) -> int:
    """So many words of a map."""
    return index << 16 | words
