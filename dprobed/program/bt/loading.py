"""A script with all that it includes and imports, its directives done and its macros put in."""

from __future__ import annotations

from collections.abc import Sequence

from dprobed.program.bt import tree
from dprobed.program.bt.directives import Directives
from dprobed.program.bt.macros import expanded
from dprobed.program.bt.options import Options
from dprobed.program.bt.parser import Parser
from dprobed.program.bt.source import Problems, SourceText, TextSpan
from dprobed.program.bt.type_table import TypeTable
from dprobed.program.bt.world import UnreadableFile, World

#: Files of one script at most.
MAX_FILES = 100


def loaded(
    source: SourceText, problems: Problems, types: TypeTable, world: World, options: Options
) -> tree.Script:
    """The tree of a script."""
    loader = _Loader(problems, types, world, options.folders)
    script = tree.Script()
    for name in options.includes:
        loader.load(SourceText("--include", f'#include "{name}"\n'), script)
    loader.load(source, script)
    expanded(script, problems)
    return script


class _Loader:
    def __init__(
        self, problems: Problems, types: TypeTable, world: World, folders: Sequence[str]
    ) -> None:
        self._problems = problems
        self._types = types
        self._world = world
        self._folders = folders
        self._directives = Directives(problems, self._include)
        self._seen: set[str] = set()
        self._into = tree.Script()

    def load(self, source: SourceText, into: tree.Script) -> None:
        """Add what a file has."""
        self._seen.add(source.name)
        before, self._into = self._into, into
        self._directives.run(source)
        parser = Parser(source, self._problems, self._types, self._directives.defined)
        script = parser.script()
        for one in script.imports:
            self._import(one, into)
        into.probes += script.probes
        into.macros += script.macros
        into.maps += script.maps
        into.settings += script.settings
        self._into = before

    def _import(self, one: tree.Import, into: tree.Script) -> None:
        if one.path.startswith("stdlib/"):
            return
        found = self._text(one.path, one.span, (one.path,))
        if found is not None:
            self.load(found, into)

    def _include(self, name: str, span: TextSpan, beside: bool) -> None:
        """``beside``: it is looked for beside the file that includes it first, else at last."""
        elsewhere = [] if name.startswith("/") else [f"{each}/{name}" for each in self._folders]
        found = self._text(name, span, (name, *elsewhere) if beside else (*elsewhere, name))
        if found is not None:
            self.load(found, self._into)

    def _text(self, name: str, span: TextSpan, places: Sequence[str]) -> SourceText | None:
        """The first of these files that is there; None: there is none that can be read, or it was
        taken already."""
        try:
            texts = (self._world.text(each, span.source.name) for each in places)
            found = next((each for each in texts if each is not None), None)
        except UnreadableFile as error:
            self._problems.add(span, f"the file `{name}` cannot be read: {error}")
            return None
        if found is None:
            self._problems.add(
                span, f"there is no file `{name}`", "declare in the script what is needed of it"
            )
            return None
        text, full = found
        if full in self._seen:
            return None
        if len(self._seen) >= MAX_FILES:
            self._problems.add(span, f"more than {MAX_FILES} files")
            return None
        return SourceText(full, text)
