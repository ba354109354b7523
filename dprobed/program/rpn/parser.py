"""Source text into a verified program.

Four passes: ``preprocessor`` leaves lines of tokens; each line is parsed into labels, keywords and
instructions; the ``builder`` makes a program of them; ``verifier`` checks the bytes. An instruction
that is refused still takes its place (as one whose effect is not known), so that everything wrong
with a file is reported at once and nothing twice.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dprobed.program.builder import Builder, Label
from dprobed.program.bytecode import MAX_FILE, decode
from dprobed.program.isa import BY_KEY, INSTRUCTIONS, ExCode, Instruction, Operand
from dprobed.program.keywords import (
    HEADER,
    PROBE,
    STARTERS,
    Keyword,
    Value,
    number_fault,
    plain_place_fault,
    text_fault,
)
from dprobed.program.model import Diagnostic, Program, ProgramError, SourcePlace
from dprobed.program.registers import REGISTER_INDEX
from dprobed.program.rpn.expression import ExpressionError, evaluate
from dprobed.program.rpn.lexer import Faults, Kind, Line, Token, unquote, written
from dprobed.program.rpn.preprocessor import (
    Preprocessor,
    Reader,
    SourceError,
    read_file,
    read_source,
)
from dprobed.program.verifier import Fault, check, is_facility, range_fault

#: Names that every expression knows.
CONSTANTS = {f"EX_{code.name}": int(code) for code in ExCode}

#: The words of each instruction → its forms (without and with an operand).
_FORMS: dict[tuple[str, ...], list[Instruction]] = {}
for _entry in INSTRUCTIONS:
    _FORMS.setdefault(tuple(_entry.name.split()), []).append(_entry)
_LONGEST = max(map(len, _FORMS))
_FIRST_WORDS = {words[0] for words in _FORMS}
#: Blanks that a place may have: around its sign or colon.
_AROUND = re.compile(r"\s*([-+:])\s*")
_NOP = BY_KEY["nop"]
_EXIT = BY_KEY["exit"]


class _Step(msgspec.Struct):
    """One instruction of the source. ``operand``: the tokens of its operand."""

    instruction: Instruction
    token: Token
    width: int
    operand: list[Token]
    value: int | str = 0
    label: Token | None = None
    broken: bool = False


class _Section(msgspec.Struct):
    """The header, or one probe definition."""

    known: Mapping[str, Keyword]
    first: Token | None = None
    values: dict[str, Any] = msgspec.field(default_factory=dict)
    places: dict[str, tuple[Token, int]] = msgspec.field(default_factory=dict)
    steps: list[_Step] = msgspec.field(default_factory=list)


class _Assembler:
    def __init__(self, file: str) -> None:
        self.file = file
        self.faults = Faults()
        self.header = _Section(HEADER)
        self.probes: list[_Section] = []
        self.labels: dict[str, tuple[Token, int, int]] = {}

    # -- parsing ------------------------------------------------------------------------------

    def line(self, line: Line) -> None:
        """Parse one logical line."""
        tokens = line.tokens
        while len(tokens) > 1 and tokens[0].kind is Kind.NAME and tokens[1].text == ":":
            self._label(tokens[0])
            tokens = tokens[2:]
        if not tokens:
            return
        if len(tokens) > 1 and tokens[1].text == "=" and tokens[0].kind is Kind.NAME:
            self._keyword(tokens[0], tokens[1], tokens[2:])
        elif tokens[0].kind is Kind.NAME:
            self._instruction(tokens)
        else:
            self.faults.at(
                tokens[0],
                f"unexpected `{tokens[0].text}`",
                "a line is `keyword = value`, `label:` or an instruction",
            )

    def _label(self, token: Token) -> None:
        known = self.labels.get(token.text)
        if known is not None:
            where = known[0].origin
            self.faults.at(
                token,
                f"label `{token.text}` is there already",
                f"it is in {where.file} line {where.line}; labels hold for the whole file",
            )
        elif not self.probes:
            self.faults.at(token, "a label before the first probe definition", _BEGIN)
        else:
            section = self.probes[-1]
            self.labels[token.text] = token, len(self.probes) - 1, len(section.steps)

    # keywords

    def _keyword(self, name: Token, equals: Token, value: list[Token]) -> None:
        section = self.probes[-1] if self.probes else self.header
        if name.text in STARTERS:
            other = STARTERS[1 - STARTERS.index(name.text)]
            if self.probes and other in section.values and not section.steps:
                self.faults.at(
                    name,
                    "a probe has either an `offset` or an `address`",
                    f"the definition before has `{other}` and no instructions",
                )
                return
            section = _Section(PROBE, name)
            self.probes.append(section)
        keyword = section.known.get(name.text)
        if keyword is None:
            self._unknown_keyword(name, section)
            return
        if name.text in section.values:
            self.faults.at(name, f"`{name.text}` is set twice", "keep one of the two")
            return
        if section.steps:
            self.faults.at(
                name,
                f"`{name.text}` after the probe's instructions",
                "keywords follow the `offset` or `address` line, then come the instructions",
            )
        section.places[name.text] = name, name.width
        section.values[name.text] = None
        if not value:
            self.faults.at(equals, f"`{name.text}` has no value", f"it is {keyword.range}")
            return
        last = value[-1]
        if last.origin == value[0].origin:
            width = max(last.column + last.width - value[0].column, 1)
            section.places[name.text] = value[0], width
        section.values[name.text] = self._value(keyword, value)

    def _unknown_keyword(self, name: Token, section: _Section) -> None:
        if name.text in PROBE:
            self.faults.at(name, f"`{name.text}` before the first probe definition", _BEGIN)
        elif name.text in HEADER:
            self.faults.at(
                name,
                f"`{name.text}` belongs into the header",
                "write it before the first `offset` or `address`",
            )
        else:
            self.faults.at(
                name, f"unknown keyword `{name.text}`", _nearest(name.text, section.known)
            )

    def _value(self, keyword: Keyword, value: list[Token]) -> object | None:
        """The value of a keyword, None when it is refused."""
        if keyword.value is Value.NUMBER:
            number = self._evaluate(value)
            message = None if number is None else number_fault(keyword, number)
            if message is not None:
                self._at(value, message)
            return None if message is not None else number
        if keyword.value is Value.BYTES:
            return self._bytes(value)
        if keyword.value is Value.YES_NO or keyword.value is Value.WORD:
            choices = keyword.choices or ("yes", "no")
            text = written(value)
            if text not in choices:
                self._at(value, f"`{keyword.name}` is one of {', '.join(choices)}, not {text}")
                return None
            return text == "yes" if keyword.value is Value.YES_NO else text
        return self._text(keyword, value)

    def _text(self, keyword: Keyword, value: list[Token]) -> str | None:
        hint = ""
        if len(value) == 1 and value[0].kind is Kind.STRING:
            text = unquote(value[0].text)
            message = text_fault(keyword, text)
        elif keyword.value is Value.TEXT:
            text = written(value)
            message = text_fault(keyword, text)
            if message is None and any(character in text for character in ' "'):
                message, hint = f"`{keyword.name}` has a blank or a quote in it", "quote it"
        else:
            text = _AROUND.sub(r"\1", written(value))
            message = text_fault(keyword, text) or plain_place_fault(keyword, text)
            hint = "write symbol, symbol+0x10, file.c:12 or 0x1234; all in quotes where it is odd"
            if keyword.value is Value.ADDRESS:
                hint = "write symbol, 0x1234 or symbol:8; all in quotes where it is odd"
        if message is not None:
            self._at(value, message, hint)
            return None
        return text

    def _bytes(self, value: list[Token]) -> bytes | None:
        found = bytearray()
        for token in value:
            if token.text == ",":
                continue
            number = self._evaluate([token])
            if number is None:
                return None
            if not 0 <= number <= 0xFF:
                self.faults.at(token, f"{token.text} is not a byte", "write 0x55 0x48 0x89")
                return None
            found.append(number)
        return bytes(found)

    # instructions

    def _instruction(self, tokens: list[Token]) -> None:
        words = [token for token in tokens if token.text != ","]
        if not self.probes:
            self.faults.at(tokens[0], "an instruction before the first probe definition", _BEGIN)
            return
        section = self.probes[-1]
        for count in range(min(_LONGEST, len(words)), 0, -1):
            forms = _FORMS.get(tuple(token.text for token in words[:count]))
            if forms is not None and not self._misspelt(words, count):
                step = self._form(forms, words[:count], words[count:])
                break
        else:
            step = _Step(_NOP, words[0], words[0].width, [], broken=True)
            self._unknown_instruction(words)
        section.steps.append(step)

    def _form(self, forms: list[Instruction], words: list[Token], operand: list[Token]) -> _Step:
        """The form that fits the operand given (or not given)."""
        last = words[-1]
        width = last.column + last.width - words[0].column
        if last.origin != words[0].origin or width < 1:
            width = words[0].width
        fitting = [form for form in forms if bool(form.operands) == bool(operand)]
        if fitting:
            step = _Step(fitting[0], words[0], width, operand)
            if operand:
                self._operand(step)
            return step
        step = _Step(forms[0], words[0], width, [], broken=True)
        written_as = forms[0].spelling
        if operand:
            self._at(operand, f"`{written_as}` takes no operand")
        else:
            kind = forms[0].operands[0].text
            separator = "," if " " in forms[0].name else " "
            self.faults.at(
                words[0],
                f"`{written_as}` takes a {kind}",
                f"write `{written_as}{separator}{kind.upper()}`",
                width,
            )
        return step

    def _operand(self, step: _Step) -> None:
        kind = step.instruction.operands[0]
        tokens = step.operand
        if kind is Operand.LABEL:
            if len(tokens) == 1 and tokens[0].kind is Kind.NAME:
                step.label = tokens[0]
            else:
                step.broken = True
                self._at(tokens, f"`{step.instruction.spelling}` takes the name of a label")
        elif kind is Operand.REGISTER:
            name = tokens[0].text
            step.value = REGISTER_INDEX.get(name, 0)
            if len(tokens) > 1 or name not in REGISTER_INDEX:
                step.broken = True
                hint = _nearest(name.lower(), REGISTER_INDEX)
                self._at(tokens, f"unknown register `{written(tokens)}`", hint)
        elif kind is Operand.FACILITY:
            self._facility(step)
        else:
            value = self._evaluate(tokens)
            wrong = None if value is None else range_fault(kind, value)
            if wrong is not None:
                self._at(tokens, *wrong)
            step.broken = value is None or wrong is not None
            step.value = 0 if value is None or wrong is not None else value

    def _facility(self, step: _Step) -> None:
        tokens = step.operand
        facility: int | str | None = written(tokens)
        if tokens[0].kind is not Kind.NAME:
            facility = self._evaluate(tokens)
        if facility is None or not is_facility(facility):
            step.broken = True
            if facility is not None:
                self._at(
                    tokens, f"`{facility}` is not a facility", "a number from 1 to 65535, or a name"
                )
            return
        step.value = facility

    @staticmethod
    def _misspelt(words: list[Token], count: int) -> bool:
        """Whether what follows the first word is no operand, but most of another instruction."""
        if count > 1 or len(words) == 1 or words[1].kind is not Kind.NAME:
            return False
        first, second = words[0].text, words[1].text
        return any(name[:2] == (first, second) for name in _FORMS) or (
            (first, "r") in _FORMS and second in REGISTER_INDEX
        )

    def _unknown_instruction(self, words: list[Token]) -> None:
        texts = [token.text for token in words[:3]]
        first = texts[0]
        if first not in _FIRST_WORDS:
            self.faults.at(
                words[0], f"unknown instruction `{first}`", _nearest(first.lower(), _FIRST_WORDS)
            )
            return
        if len(texts) > 1 and texts[1] in REGISTER_INDEX:
            hint = f"did you mean `{first} r,{texts[1]}`?"
        else:
            known = {" ".join(name): i[0] for name, i in _FORMS.items() if name[0] == first}
            close = difflib.get_close_matches(" ".join(texts), known, 1)
            hint = f"did you mean `{known[close[0]].spelling}`?" if close else _others(words[:1])
        self._at(words[:3], f"unknown instruction `{' '.join(texts)}`", hint)

    # helpers

    def _at(self, tokens: Sequence[Token], message: str, hint: str = "") -> None:
        """A fault of several tokens together."""
        first, last = tokens[0], tokens[-1]
        width = first.width
        if first.origin == last.origin:
            width = max(width, last.column + last.width - first.column)
        self.faults.at(first, message, hint, width)

    def _evaluate(self, tokens: list[Token]) -> int | None:
        try:
            return evaluate(tokens, CONSTANTS)
        except ExpressionError as error:
            self.faults.at(error.token or tokens[-1], error.message, error.hint)
            return None

    # -- laying out ---------------------------------------------------------------------------

    def program(self) -> tuple[Program, dict[int, _Step]]:
        """The program as far as it can be made, and the instruction at each code offset."""
        place = self.header.places.get("name")
        name_at = None if place is None else _source_place(place[0])
        builder = Builder(name_at=name_at, **{"name": "-", **_usable(self.header)})
        labels = {name: builder.label() for name in self.labels}
        placed: dict[tuple[int, int], list[Label]] = {}
        for name, (_, probe, position) in self.labels.items():
            placed.setdefault((probe, position), []).append(labels[name])
        steps: dict[int, _Step] = {}
        for number, section in enumerate(self.probes):
            assert section.first is not None
            token = next((section.places[n][0] for n in STARTERS if n in section.places),
                         section.first)  # fmt: skip
            builder.probe(at=_source_place(token), **_usable(section))
            for position, step in enumerate(section.steps):
                for label in placed.get((number, position), ()):
                    builder.place(label)
                operand = self._encoded(step, labels)
                steps[builder.add(step.instruction.key, operand, _source_place(step.token))] = step
            for label in placed.get((number, len(section.steps)), ()):
                builder.place(label)
            steps |= self._end(builder, section)
        return builder.program(), steps

    def _end(self, builder: Builder, section: _Section) -> dict[int, _Step]:
        """Let the probe end by `exit` where its instructions do not end it."""
        assert section.first is not None
        token, width = section.first, section.first.width
        if section.steps:
            last = section.steps[-1]
            token, width = last.token, last.width
            if last.broken:
                # Nobody knows where it would have gone on.
                return {
                    builder.add(_EXIT.key, at=_source_place(token)): _Step(_EXIT, token, width, [])
                }
        else:
            self.faults.at(section.first, "the probe has no instructions", "write at least `exit`")
        added = builder.end_probe()
        return {} if added is None else {added: _Step(_EXIT, token, width, [])}

    def _encoded(self, step: _Step, labels: Mapping[str, Label]) -> int | str | Label | None:
        """The operand as the builder takes it."""
        if not step.instruction.operands:
            return None
        if step.label is not None and step.label.text not in labels:
            step.broken = True
            self.faults.at(
                step.label,
                f"there is no label `{step.label.text}`",
                _nearest(step.label.text, self.labels),
            )
        if step.broken:
            # What was refused is encoded as a value that cannot be wrong a second time.
            return max(step.instruction.operands[0].low, 1)
        return step.value if step.label is None else labels[step.label.text]

    def verify(self) -> Program:
        """Check the whole; raise ProgramError with all that was found."""
        if "name" not in self.header.values and self.probes:
            self.faults.add(
                Diagnostic(self.file, 1, 1, "the program has no `name`", "write name = MODULE")
            )
        program, steps = self.program()
        broken = frozenset(at for at, step in steps.items() if step.broken)
        # A keyword that was refused has its default here, which says nothing of the file.
        refused = tuple(f"write {name} =" for name in _bad(self.header))
        for fault in check(program, broken):
            if not fault.hint.startswith(refused):
                self._report(fault, steps)
        if self.faults.found:
            order = {name: i for i, name in enumerate(dict.fromkeys([self.file, *program.sources]))}
            found = sorted(
                self.faults.found, key=lambda d: (order.get(d.file, -1), d.line, d.column)
            )
            raise ProgramError(tuple(found))
        return program

    def _report(self, fault: Fault, steps: Mapping[int, _Step]) -> None:
        """A fault of the bytes, at its place in the source."""
        if fault.offset is not None:
            step = steps[fault.offset]
            token, width = step.token, step.width
            if fault.operand is not None and step.operand:
                token = step.operand[0]
                width = token.width
            self.faults.at(token, fault.message, fault.hint, width, fault.note)
            return
        section = self.header if fault.probe is None else self.probes[fault.probe]
        place = section.places.get(fault.keyword or "")
        if place is not None:
            self.faults.at(place[0], fault.message, fault.hint, place[1])
        elif section.first is not None:
            self.faults.at(section.first, fault.message, fault.hint)
        else:
            self.faults.add(Diagnostic(self.file, 1, 1, fault.message, fault.hint))


_BEGIN = "a definition begins with `offset = PLACE` or `address = PLACE`"


def _usable(section: _Section) -> dict[str, Any]:
    """The values of a section that are not refused; a refused text still counts as given."""
    found = {n: v for n, v in section.values.items() if v is not None}
    for name in _bad(section):
        found.pop(name, None)
        if section.known[name].value in (Value.TEXT, Value.PLACE, Value.ADDRESS):
            found[name] = "-"
    return found


def _bad(section: _Section) -> list[str]:
    """The keywords of a section whose values are refused."""
    return [name for name, value in section.values.items() if value is None]


def _source_place(token: Token) -> SourcePlace:
    return SourcePlace(token.origin.file, token.origin.line, token.column)


def _nearest(text: str, known: Mapping[str, object] | set[str]) -> str:
    close = difflib.get_close_matches(text, known, 1)
    return f"did you mean `{close[0]}`?" if close else ""


def _others(words: Sequence[Token]) -> str:
    """Which instructions begin with these words."""
    texts = tuple(token.text for token in words)
    keys = [i.key for name, forms in _FORMS.items() if name[: len(texts)] == texts for i in forms]
    return "known: " + ", ".join(f"`{key}`" for key in keys[:12])


def assemble(
    source: str,
    filename: str,
    defines: Mapping[str, str] | None = None,
    read: Reader = read_file,
) -> Program:
    """A verified program from source text; raises ProgramError.

    ``filename``: for diagnostics, and ``#include`` looks in its directory. ``defines``: macros, as
    with ``-D``. ``read``: how included files are read.
    """
    assembler = _Assembler(filename)
    preprocessor = Preprocessor(assembler.faults, defines or {}, read)
    for line in preprocessor.lines(source, filename):
        assembler.line(line)
    if preprocessor.gave_up:
        raise ProgramError(tuple(assembler.faults.found))
    return assembler.verify()


def load_file(
    path: str | Path, defines: Mapping[str, str] | None = None, read: Reader = read_file
) -> Program:
    """The verified program of a ``.rpn`` (assembled) or ``.dpb`` file (decoded).

    ``read``: how it, and what it includes, is read. Raises ProgramError, also when the file cannot
    be read.
    """
    path = Path(path)
    try:
        if path.suffix == ".dpb":
            return decode(read(path, MAX_FILE), str(path))
        text = read_source(path, read)
    except (OSError, SourceError) as error:
        reason = str(error.strerror if isinstance(error, OSError) else error)
        fault = Diagnostic(str(path), 0, 0, f"cannot read the program: {reason}")
        raise ProgramError((fault,)) from error
    return assemble(text, str(path), defines, read)
