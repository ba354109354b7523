"""Parses the value of a keyword: a number, a text, a place, bytes, or one of a few words."""

from __future__ import annotations

import re

from dprobed.program.keywords import (
    Keyword,
    Value,
    number_error,
    plain_place_error,
    text_error,
    variable_names_error,
)
from dprobed.program.maps import KIND_BY_NAME, VALUE, MapDefinition, definition_error
from dprobed.program.rpn.lexer import Diagnostics, Token, TokenKind, unquote, written
from dprobed.program.rpn.sections import evaluated

#: The last name of a function of C++ or Rust that is named by its classes or modules.
_LAST_NAME = re.compile(r"::~?(\w+)(\W[^:]*)?$", re.ASCII)
#: Blanks that a place may have: around its sign or colon.
_AROUND = re.compile(r"\s*([-+:])\s*")


class ValueParser:
    """Parses values of keywords; what is wrong with them goes to ``diagnostics``."""

    def __init__(self, diagnostics: Diagnostics) -> None:
        self._diagnostics = diagnostics

    def parse(self, keyword: Keyword, value: list[Token]) -> object | None:
        """The value of a keyword, None when it is refused."""
        if keyword.value is Value.NUMBER:
            number = evaluated(value, self._diagnostics)
            message = None if number is None else number_error(keyword, number)
            if message is not None:
                self._diagnostics.span(value, message)
            return None if message is not None else number
        if keyword.value is Value.NUMBER_OR_NAMES:
            return self._number_or_names(keyword, value)
        if keyword.value is Value.BYTES:
            return self._bytes(value)
        if keyword.value is Value.MAP:
            return self._map(value)
        if keyword.value is Value.YES_NO or keyword.value is Value.WORD:
            choices = keyword.choices or ("yes", "no")
            text = written(value)
            if text not in choices:
                self._diagnostics.span(
                    value, f"`{keyword.name}` is one of {', '.join(choices)}, not {text}"
                )
                return None
            return text == "yes" if keyword.value is Value.YES_NO else text
        return self._text(keyword, value)

    def _number_or_names(self, keyword: Keyword, value: list[Token]) -> object | None:
        names, commas = value[::2], value[1::2]
        if all(each.kind is TokenKind.NAME for each in names) and (
            len(names) > len(commas) and all(each.text == "," for each in commas)
        ):
            texts = tuple(each.text for each in names)
            message = variable_names_error(texts)
            if message is not None:
                self._diagnostics.span(value, message, "choose another name")
            return None if message is not None else texts
        if any(each.kind is TokenKind.NAME for each in value):
            message = f"`{keyword.name}` is a number, or names with commas between them"
            self._diagnostics.span(value, message, f"write {keyword.name} = calls, bytes")
            return None
        number = evaluated(value, self._diagnostics)
        message = None if number is None else number_error(keyword, number)
        if message is not None:
            self._diagnostics.span(value, message)
        return None if message is not None else number

    def _text(self, keyword: Keyword, value: list[Token]) -> str | None:
        hint = ""
        if len(value) == 1 and value[0].kind is TokenKind.STRING:
            text = unquote(value[0].text)
            message = text_error(keyword, text)
        elif keyword.value is Value.TEXT:
            text = written(value)
            message = text_error(keyword, text)
            if message is None and any(character in text for character in ' "'):
                message, hint = f"`{keyword.name}` has a blank or a quote in it", "quote it"
        else:
            text = _AROUND.sub(r"\1", written(value))
            message = text_error(keyword, text) or plain_place_error(keyword, text)
            hint = "write symbol, symbol+0x10, file.c:12 or 0x1234; all in quotes where it is odd"
            if keyword.value is Value.ADDRESS:
                hint = "write symbol, 0x1234 or symbol:8; all in quotes where it is odd"
            if match := _LAST_NAME.search(text):
                mangled = f"{len(match[1])}{match[1]}"
                hint = (
                    "write the symbol, which has the length of each name before it: `dprobe places "
                    f"MODULE '*{mangled}*'` lists it"
                )
        if message is not None:
            self._diagnostics.span(value, message, hint)
            return None
        return text

    def _map(self, value: list[Token]) -> MapDefinition | None:
        """``NAME, KIND[,ARGUMENT…][, keys=N][, size=M][, signed]``."""
        parts = _between_commas(value)
        names = [written(part) for part in parts[:2]]
        if len(names) < 2 or not all(names):
            message = "`map` is a name and a kind, with a comma between them"
            self._diagnostics.span(value, message, "write map = sizes, hist")
            return None
        options: dict[str, int] = {}
        arguments: list[int] = []
        for part in parts[2:]:
            first = part[0].text if part else ""
            named = len(part) > 1 and part[1].text == "="
            if first in options or (named and first not in ("keys", "size")):
                twice = f"`{first}` is there twice" if first in options else None
                message = twice or f"`{first}` is nothing that a map has"
                self._diagnostics.span(part[:1], message, "keys=N, size=M and signed are possible")
                return None
            if first == "signed" and len(part) == 1:
                options[first] = 1
                continue
            given = part[2:] if named else part
            if not given:
                self._diagnostics.span(value, "there is nothing behind a comma or `=`")
                return None
            number = evaluated(given, self._diagnostics)
            if number is None:
                return None
            if named:
                options[first] = number
            else:
                arguments.append(number)
        return self._checked(value, names, arguments, options)

    def _checked(
        self, value: list[Token], names: list[str], arguments: list[int], options: dict[str, int]
    ) -> MapDefinition | None:
        name, kind = names
        known = KIND_BY_NAME.get(kind)
        for argument in (known.arguments if known is not None else ())[len(arguments) :]:
            if argument.default is not None and kind != VALUE:
                arguments.append(argument.default)
        signed = bool(options.pop("signed", 0))
        one = MapDefinition(name, kind, tuple(arguments), signed=signed, **options)
        wrong = definition_error(one)
        if wrong is not None:
            self._diagnostics.span(value, *wrong)
        return one if wrong is None else None

    def _bytes(self, value: list[Token]) -> bytes | None:
        found = bytearray()
        for token in value:
            if token.text == ",":
                continue
            number = evaluated([token], self._diagnostics)
            if number is None:
                return None
            if not 0 <= number <= 0xFF:
                self._diagnostics.at(token, f"{token.text} is not a byte", "write 0x55 0x48 0x89")
                return None
            found.append(number)
        return bytes(found)


def _between_commas(tokens: list[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token.text == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return parts
