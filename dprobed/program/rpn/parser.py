"""Source text into a verified program.

The passes: ``preprocessor`` leaves lines of tokens; each line is parsed here into labels, keywords
(``values``) and instructions (``instructions``); ``layout`` makes a program of them with the
``builder`` and has the ``verifier`` check it. An instruction that is refused still takes its place
(as one whose effect is not known), so that everything wrong with a file is reported at once and
nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dprobed.program.bytecode import MAX_FILE, decode
from dprobed.program.keywords import (
    ENTRY_PART,
    HEADER,
    PARTS,
    PROBE,
    RETURN_PART,
    STARTERS,
    Keyword,
    Value,
)
from dprobed.program.maps import MapDefinition
from dprobed.program.model import Diagnostic, Program, ProgramError
from dprobed.program.rpn.abbreviations import expanded
from dprobed.program.rpn.instructions import InstructionParser
from dprobed.program.rpn.layout import ProgramLayout
from dprobed.program.rpn.lexer import Diagnostics, LogicalLine, Token, TokenKind, shown
from dprobed.program.rpn.preprocessor import (
    Preprocessor,
    Reader,
    SourceError,
    read_file,
    read_source,
)
from dprobed.program.rpn.sections import ParsedFile, SourceLabel, SourceSection, nearest
from dprobed.program.rpn.values import ValueParser

_BEGIN = "a definition begins with `offset = PLACE` or `address = PLACE`"


class _FileParser:
    """Parses lines one after the other into ``file``; what is wrong goes to ``diagnostics``."""

    def __init__(self, name: str) -> None:
        self.file = ParsedFile(name)
        self.diagnostics = Diagnostics()
        self._values = ValueParser(self.diagnostics)
        self._instructions = InstructionParser(self.diagnostics)

    def line(self, line: LogicalLine) -> None:
        """Parse one logical line."""
        tokens = line.tokens
        while len(tokens) > 1 and tokens[0].kind is TokenKind.NAME and tokens[1].text == ":":
            self._label(tokens[0])
            tokens = tokens[2:]
        if not tokens:
            return
        if len(tokens) > 1 and tokens[1].text == "=" and tokens[0].kind is TokenKind.NAME:
            self._keyword(tokens[0], tokens[1], tokens[2:])
        elif tokens[0].kind is TokenKind.NAME:
            self._instruction(tokens)
        else:
            self.diagnostics.at(
                tokens[0],
                f"unexpected `{tokens[0].text}`",
                "a line is `keyword = value`, `label:` or an instruction",
            )

    def _label(self, token: Token) -> None:
        known = self.file.labels.get(token.text)
        if (
            self.file.probes
            and token.text in PARTS
            and (self.file.probes[-1].values.get("at") == "return")
        ):
            self._part(token, self.file.probes[-1])
        elif known is not None:
            where = known.token.origin
            self.diagnostics.at(
                token,
                f"label `{token.text}` is there already",
                f"it is in {where.file} line {where.line}; labels hold for the whole file",
            )
        elif not self.file.probes:
            self.diagnostics.at(token, "a label before the first probe definition", _BEGIN)
        else:
            section = self.file.probes[-1]
            position = len(section.instructions)
            self.file.labels[token.text] = SourceLabel(token, len(self.file.probes) - 1, position)

    def _part(self, token: Token, section: SourceSection) -> None:
        """The label of a part of a return probe."""
        position = len(section.instructions)
        name = token.text
        if name in section.parts:
            self.diagnostics.at(token, f"`{name}:` is there twice", "keep one of the two")
        elif name == ENTRY_PART and (position or section.parts):
            self.diagnostics.at(
                token,
                f"`{name}:` after the probe's instructions",
                "what runs at the entry comes first, then `return:` and the rest",
            )
        elif position and ENTRY_PART not in section.parts:
            self.diagnostics.at(
                token,
                f"instructions before `{name}:`",
                f"write `{ENTRY_PART}:` before them, if they shall run at the entry",
            )
        elif not position and section.parts:
            self.diagnostics.at(token, "the entry part has no instructions", "drop `entry:`")
        else:
            section.parts[name] = token, position

    # keywords

    def _keyword(self, name: Token, equals: Token, value: list[Token]) -> None:
        section = self.file.probes[-1] if self.file.probes else self.file.header
        if name.text in STARTERS:
            other = STARTERS[1 - STARTERS.index(name.text)]
            if self.file.probes and other in section.values and not section.instructions:
                self.diagnostics.at(
                    name,
                    "a probe has either an `offset` or an `address`",
                    f"the definition before has `{other}` and no instructions",
                )
                return
            section = SourceSection(PROBE, name)
            self.file.probes.append(section)
        keyword = section.known.get(name.text)
        if keyword is None:
            self._unknown_keyword(name, section)
            return
        if name.text in section.values and not keyword.repeats:
            self.diagnostics.at(name, f"`{name.text}` is set twice", "keep one of the two")
            return
        if section.instructions:
            self.diagnostics.at(
                name,
                f"`{name.text}` after the probe's instructions",
                "keywords follow the `offset` or `address` line, then come the instructions",
            )
        if keyword.repeats:
            self._map(name, keyword, value)
            return
        section.places[name.text] = name, name.width
        section.values[name.text] = None
        if not value:
            self.diagnostics.at(equals, f"`{name.text}` has no value", f"it is {keyword.range}")
            return
        last = value[-1]
        if last.origin == value[0].origin:
            width = max(last.column + last.width - value[0].column, 1)
            section.places[name.text] = value[0], width
        section.values[name.text] = parsed = self._values.parse(keyword, value)
        if keyword.value is Value.NUMBER_OR_NAMES and parsed is None:
            self._instructions.variables = None
        elif isinstance(parsed, tuple):
            self._instructions.variables = {each: index for index, each in enumerate(parsed)}

    def _map(self, name: Token, keyword: Keyword, value: list[Token]) -> None:
        """One more map of the header."""
        header = self.file.header
        if not value:
            self.diagnostics.at(name, "`map` has no value", "write map = sizes, hist")
        one = self._values.parse(keyword, value) if value else None
        if not isinstance(one, MapDefinition):
            self._instructions.maps = None
            return
        if self._instructions.maps is not None:
            if one.name in self._instructions.maps:
                hint = "call one of them otherwise"
                self.diagnostics.span(value[:1], f"there is a map `{one.name}` already", hint)
            self._instructions.maps.setdefault(one.name, one)
        if one.name not in {each.name for each in header.values.get(name.text, ())}:
            header.values[name.text] = (*header.values.get(name.text, ()), one)
            header.places[name.text] = value[0], value[0].width

    def _unknown_keyword(self, name: Token, section: SourceSection) -> None:
        if name.text in PROBE:
            self.diagnostics.at(name, f"`{name.text}` before the first probe definition", _BEGIN)
        elif name.text in HEADER:
            self.diagnostics.at(
                name,
                f"`{name.text}` belongs into the header",
                "write it before the first `offset` or `address`",
            )
        else:
            self.diagnostics.at(
                name, f"unknown keyword `{name.text}`", nearest(name.text, section.known)
            )

    # instructions

    def _instruction(self, tokens: list[Token]) -> None:
        if self.file.probes:
            section = self.file.probes[-1]
            if (
                tokens[0].text == RETURN_PART
                and section.values.get("at") == "return"
                and (section.split is not None or ENTRY_PART not in section.parts)
            ):
                hint = "push what it shall return, and `pop r,rax`"
                self.diagnostics.at(tokens[0], "the function returns already", hint)
                return
            for each in expanded(tokens, self.diagnostics):
                self.file.probes[-1].instructions.append(self._instructions.parse(each))
        else:
            self.diagnostics.at(
                tokens[0], "an instruction before the first probe definition", _BEGIN
            )


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
    parser = _FileParser(shown(filename))
    preprocessor = Preprocessor(parser.diagnostics, defines or {}, read)
    for line in preprocessor.lines(source, filename):
        parser.line(line)
    if preprocessor.gave_up:
        raise ProgramError(tuple(parser.diagnostics.found))
    return ProgramLayout(parser.file, parser.diagnostics).verified()


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
            return decode(read(path, MAX_FILE), shown(path))
        text = read_source(path, read)
    except (OSError, SourceError) as error:
        reason = str(error.strerror if isinstance(error, OSError) else error)
        message = f"cannot read the program: {reason}"
        raise ProgramError((Diagnostic(shown(path), 0, 0, message),)) from error
    return assemble(text, str(path), defines, read)
