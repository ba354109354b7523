"""Parses an instruction: which form of the table it is, and its operand."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from dprobed.program.isa import BY_KEY, INSTRUCTIONS, Instruction, Operand
from dprobed.program.maps import COUNT, MapDefinition
from dprobed.program.registers import REGISTER_INDEX
from dprobed.program.rpn.lexer import Diagnostics, Token, TokenKind, unquote, written
from dprobed.program.rpn.sections import SourceInstruction, evaluated, nearest
from dprobed.program.values import name_error
from dprobed.program.verifier import is_facility, range_error

#: The words of each instruction → its forms (without and with an operand).
_FORMS: dict[tuple[str, ...], list[Instruction]] = {}
for _entry in INSTRUCTIONS:
    _FORMS.setdefault(tuple(_entry.name.split()), []).append(_entry)
_LONGEST = max(map(len, _FORMS))
_FIRST_WORDS = {words[0] for words in _FORMS}
_NOP = BY_KEY["nop"]
_MADD, _MINC = BY_KEY["madd map"], BY_KEY["minc map"]


class InstructionParser:
    """Parses instructions; what is wrong with them goes to ``diagnostics``."""

    def __init__(self, diagnostics: Diagnostics) -> None:
        self._diagnostics = diagnostics
        #: The program's names of local variables → their indices; None: they were refused.
        self.variables: Mapping[str, int] | None = {}
        #: The program's maps by name; None: one of them was refused.
        self.maps: dict[str, MapDefinition] | None = {}

    def parse(self, tokens: list[Token]) -> SourceInstruction:
        """The instruction that these tokens are; one that is refused is ``broken``."""
        words = [token for token in tokens if token.text != ","]
        for count in range(min(_LONGEST, len(words)), 0, -1):
            forms = _FORMS.get(tuple(token.text for token in words[:count]))
            if forms is not None and not self._misspelt(words, count):
                return self._form(forms, words[:count], words[count:])
        self._unknown_instruction(words)
        return SourceInstruction(_NOP, words[0], words[0].width, [], broken=True)

    def _form(
        self, forms: list[Instruction], words: list[Token], operand: list[Token]
    ) -> SourceInstruction:
        """The form that fits the operand given (or not given)."""
        last = words[-1]
        width = last.column + last.width - words[0].column
        if last.origin != words[0].origin or width < 1:
            width = words[0].width
        # A facility may be called as a suffix is: one word alone is the operand.
        suffix = operand[-1].text if len(operand) > 1 else ""
        suffixed = [form for form in forms if form.suffix and form.suffix == suffix]
        fitting = [
            form for form in forms if bool(form.operands) == bool(operand) and not form.suffix
        ]
        if suffixed:
            fitting, operand = suffixed, operand[:-1]
        if fitting:
            step = SourceInstruction(fitting[0], words[0], width, operand)
            if operand:
                self._operand(step)
            return step
        step = SourceInstruction(forms[0], words[0], width, [], broken=True)
        written_as = forms[0].spelling
        if operand:
            self._diagnostics.span(operand, f"`{written_as}` takes no operand")
        else:
            kind = forms[0].operands[0].text
            separator = "," if " " in forms[0].name else " "
            self._diagnostics.at(
                words[0],
                f"`{written_as}` takes a {kind}",
                f"write `{written_as}{separator}{kind.upper()}`",
                width,
            )
        return step

    def _operand(self, step: SourceInstruction) -> None:
        kind = step.instruction.operands[0]
        tokens = step.operand
        if kind is Operand.LABEL:
            if len(tokens) == 1 and tokens[0].kind is TokenKind.NAME:
                step.label = tokens[0]
            else:
                step.broken = True
                self._diagnostics.span(
                    tokens, f"`{step.instruction.spelling}` takes the name of a label"
                )
        elif kind is Operand.REGISTER:
            name = tokens[0].text
            step.value = REGISTER_INDEX.get(name, 0)
            if len(tokens) > 1 or name not in REGISTER_INDEX:
                step.broken = True
                hint = nearest(name.lower(), REGISTER_INDEX)
                self._diagnostics.span(tokens, f"unknown register `{written(tokens)}`", hint)
        elif kind is Operand.FACILITY:
            self._facility(step)
        elif kind is Operand.NAME:
            self._name(step)
        elif kind is Operand.SYMBOL:
            step.value = _symbol(tokens)
        elif kind in (Operand.MAP, Operand.CELL):
            self._map(step)
        else:
            names: Mapping[str, int] | None = None
            if kind is Operand.U16 and step.instruction.group == "locals":
                names = self.variables
                if names is None:
                    step.broken = True
                    return
            value = evaluated(tokens, self._diagnostics, names)
            wrong = None if value is None else range_error(kind, value)
            if wrong is not None:
                self._diagnostics.span(tokens, *wrong)
            step.broken = value is None or wrong is not None
            step.value = 0 if value is None or wrong is not None else value

    def _facility(self, step: SourceInstruction) -> None:
        tokens = step.operand
        facility: int | str | None = written(tokens)
        if tokens[0].kind is not TokenKind.NAME:
            facility = evaluated(tokens, self._diagnostics)
        if facility is None or not is_facility(facility):
            step.broken = True
            if facility is not None:
                self._diagnostics.span(
                    tokens, f"`{facility}` is not a facility", "a number from 1 to 65535, or a name"
                )
            return
        step.value = facility

    def _name(self, step: SourceInstruction) -> None:
        name = written(step.operand)
        wrong = name_error(name)
        if wrong is not None:
            step.broken = True
            self._diagnostics.span(step.operand, wrong, "choose another name")
        step.value = name

    def _map(self, step: SourceInstruction) -> None:
        """A map by its name. `madd` of one that only counts takes no value: it is its `minc`."""
        name = written(step.operand)
        known = (self.maps or {}).get(name)
        if known is None:
            step.broken = True
            if self.maps is not None:
                hint = nearest(name, self.maps) or f"write map = {name}, count in the header"
                self._diagnostics.span(step.operand, f"there is no map `{name}`", hint)
            return
        if known.kind == COUNT and step.instruction is _MADD:
            step.instruction = _MINC
        step.value = name

    @staticmethod
    def _misspelt(words: list[Token], count: int) -> bool:
        """Whether what follows the first word is no operand, but most of another instruction."""
        if count > 1 or len(words) == 1 or words[1].kind is not TokenKind.NAME:
            return False
        first, second = words[0].text, words[1].text
        return any(name[:2] == (first, second) for name in _FORMS) or (
            (first, "r") in _FORMS and second in REGISTER_INDEX
        )

    def _unknown_instruction(self, words: list[Token]) -> None:
        texts = [token.text for token in words[:3]]
        first = texts[0]
        if first not in _FIRST_WORDS:
            self._diagnostics.at(
                words[0], f"unknown instruction `{first}`", nearest(first.lower(), _FIRST_WORDS)
            )
            return
        if len(texts) > 1 and texts[1] in REGISTER_INDEX:
            hint = f"did you mean `{first} r,{texts[1]}`?"
        else:
            known = {" ".join(name): i[0] for name, i in _FORMS.items() if name[0] == first}
            close = difflib.get_close_matches(" ".join(texts), known, 1)
            hint = f"did you mean `{known[close[0]].spelling}`?" if close else _others(words[:1])
        self._diagnostics.span(words[:3], f"unknown instruction `{' '.join(texts)}`", hint)


def _symbol(tokens: Sequence[Token]) -> str:
    if len(tokens) == 1 and tokens[0].kind is TokenKind.STRING:
        return unquote(tokens[0].text)
    return written(tokens)


def _others(words: Sequence[Token]) -> str:
    """Which instructions begin with these words."""
    texts = tuple(token.text for token in words)
    keys = [i.key for name, forms in _FORMS.items() if name[: len(texts)] == texts for i in forms]
    return "known: " + ", ".join(f"`{key}`" for key in keys[:12])
