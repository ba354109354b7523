"""``dprobe lsp``, as an editor speaks to it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client_support import DPROBE, PATIENCE, cat, dprobe

URI = "file:///tmp/some/script.bt"


class Editor:
    """The other side of the protocol."""

    def __init__(self, *arguments: object) -> None:
        command = [str(DPROBE), "lsp", *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        self._number = 0

    def send(self, method: str, params: Any, **more: Any) -> None:
        body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, **more}).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()

    def read(self) -> Any:
        assert self.process.stdout is not None
        size = 0
        while line := self.process.stdout.readline().strip():
            if line.lower().startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        return json.loads(self.process.stdout.read(size))

    def ask(self, method: str, params: Any) -> Any:
        self._number += 1
        self.send(method, params, id=self._number)
        while True:
            told = self.read()
            if told.get("id") == self._number:
                return told["result"]

    def shown(self, text: str) -> list[dict[str, Any]]:
        """What is wrong with a script that is opened."""
        document = {"uri": URI, "languageId": "bt", "version": 1, "text": text}
        self.send("textDocument/didOpen", {"textDocument": document})
        while True:
            told = self.read()
            if told.get("method") == "textDocument/publishDiagnostics":
                found: list[dict[str, Any]] = told["params"]["diagnostics"]
                return found

    def words(self, line: int, character: int) -> set[str]:
        """What is offered there."""
        where = {"textDocument": {"uri": URI}, "position": {"line": line, "character": character}}
        found = self.ask("textDocument/completion", where)
        return {each["label"] for each in found}

    def close(self) -> None:
        self.ask("shutdown", None)
        self.send("exit", None)
        out, err = self.process.communicate(timeout=PATIENCE)
        assert (self.process.returncode, out) == (0, b""), err.decode()


@pytest.fixture
def editor() -> Iterator[Editor]:
    pytest.importorskip("pygls")
    one = Editor()
    one.ask("initialize", {"processId": None, "rootUri": None, "capabilities": {}})
    one.send("initialized", {})
    yield one
    one.close()


def test_faults_words_and_meanings(editor: Editor) -> None:
    text = "uprobe:libc:malloc\n{\n  @ = hist(arg0;\n  pri\n}\n"
    (fault,) = editor.shown(text)[:1]
    assert fault["range"]["start"] == {"line": 2, "character": 15} and fault["source"] == "dprobe"
    assert {"print", "printf"} <= editor.words(3, 5)
    where = {"textDocument": {"uri": URI}, "position": {"line": 3, "character": 4}}
    assert editor.ask("textDocument/hover", where) is None
    assert editor.shown("uprobe:libc:mallo { @ = count(); }\n") == []
    assert {"malloc", "malloc_usable_size"} <= editor.words(0, 17)
    assert "uretprobe" in editor.words(0, 1)
    editor.shown('uprobe:libc:malloc { printf("x"); }\n')
    where["position"] = {"line": 0, "character": 23}
    assert "print values by a format" in json.dumps(editor.ask("textDocument/hover", where))


def test_places_of_a_process() -> None:
    pytest.importorskip("pygls")
    with cat() as target:
        one = Editor("-p", target.pid)
        one.ask("initialize", {"processId": None, "rootUri": None, "capabilities": {}})
        assert one.shown("write /arg0 == 1/ { @ = count(); }\n") == []
        (fault,) = one.shown("no_such_function { @ = count(); }\n")
        assert "no_such_function" in fault["message"]
        one.close()


def test_without_pygls_one_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "pygls.py").write_text("raise ModuleNotFoundError(name='pygls')\n")
    done = dprobe("lsp", env={"PYTHONPATH": str(tmp_path), "PATH": "/bin:/usr/bin"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("dprobe: `dprobe lsp` needs the package pygls; run: pip install pygls\n")
