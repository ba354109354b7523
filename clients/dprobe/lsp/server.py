"""The server itself: pygls speaks the protocol, ``answers`` knows the language."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Final

from lsprotocol import types
from pygls.lsp.server import LanguageServer

from dprobe.lib.errors import UserError
from dprobe.lib.mapped import File, files_of_process
from dprobe.lsp.answers import ScriptAnswers
from dprobed import __version__
from dprobed.program.model import Diagnostic

_KINDS: Final = {
    "function": types.CompletionItemKind.Function,
    "name": types.CompletionItemKind.Variable,
    "constant": types.CompletionItemKind.Constant,
    "keyword": types.CompletionItemKind.Keyword,
    "place": types.CompletionItemKind.Event,
}


def serve(pid: int | None) -> None:
    """Serve an editor until it ends; scripts are about ``pid``, if there is one."""

    def files() -> Sequence[File]:
        with contextlib.suppress(UserError):  # it may have ended
            return files_of_process(pid) if pid is not None else ()
        return ()

    # Copies: pygls closes what it is given, and main flushes its own at the end.
    given, told = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    made(ScriptAnswers(files)).start_io(given, told)


def made(answers: ScriptAnswers) -> LanguageServer:
    """The server."""
    server = LanguageServer("dprobe", __version__)

    def check(uri: str) -> None:
        document = server.workspace.get_text_document(uri)
        found = answers.faults(document.source, document.path)
        shown = types.PublishDiagnosticsParams(
            uri, list(map(_fault, found)), version=document.version
        )
        server.text_document_publish_diagnostics(shown)

    def opened(asked: types.DidOpenTextDocumentParams) -> None:
        check(asked.text_document.uri)

    def changed(asked: types.DidChangeTextDocumentParams) -> None:
        check(asked.text_document.uri)

    def complete(asked: types.CompletionParams) -> list[types.CompletionItem]:
        document = server.workspace.get_text_document(asked.text_document.uri)
        before = document.source[: document.offset_at_position(asked.position)]
        return [
            types.CompletionItem(each.word, kind=_KINDS[each.kind], detail=each.meaning or None)
            for each in answers.completions(before)
        ]

    def hover(asked: types.HoverParams) -> types.Hover | None:
        document = server.workspace.get_text_document(asked.text_document.uri)
        lines = document.source.split("\n")
        if asked.position.line >= len(lines):
            return None
        meaning = answers.meaning(lines[asked.position.line], asked.position.character)
        return types.Hover(meaning) if meaning else None

    # Not as decorators: where pygls is not installed, mypy knows no types of theirs.
    server.feature(types.TEXT_DOCUMENT_DID_OPEN)(opened)
    server.feature(types.TEXT_DOCUMENT_DID_CHANGE)(changed)
    offered = types.CompletionOptions(trigger_characters=[":"])
    server.feature(types.TEXT_DOCUMENT_COMPLETION, offered)(complete)
    server.feature(types.TEXT_DOCUMENT_HOVER)(hover)
    return server


def _fault(one: Diagnostic) -> types.Diagnostic:
    line, column = max(0, one.line - 1), max(0, one.column - 1)
    return types.Diagnostic(
        types.Range(types.Position(line, column), types.Position(line, column + one.length)),
        f"{one.message}; {one.hint}" if one.hint else one.message,
        severity=types.DiagnosticSeverity.Error,
        source="dprobe",
    )
