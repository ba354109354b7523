"""Writes the man pages of the commands, the configuration, the policies and the language.

    python etc/man.py            # writes docs/man
    python etc/man.py --check    # fails where they are not what would be written

Their source is what the commands say with ``--help``, ``etc/dprobed.toml``, and the documents in
``docs``. dprobe(1) and dprobed(8) themselves are written by hand. A document's paragraphs, code,
lists and headings stay what they are; of a table each row becomes a paragraph under its first cell.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "clients"))

from dprobe.main import _COMMANDS, cli  # noqa: E402

MAN: Final = ROOT / "docs" / "man"
#: Page → document, what it is.
_DOCUMENTS: Final = {
    "dprobe-policy.5": ("policies.md", "policies of dprobed: rights over processes"),
    "dprobe-rpn.7": ("language.md", "the language of probe programs"),
}
_SECTIONS: Final = {"1": "User commands", "5": "File formats", "7": "Miscellanea"}
_GENERATED: Final = '.\\" Written by etc/man.py'
#: In a document: code, emphasis, links.
_INLINE: Final = re.compile(
    r"`(?P<code>[^`]+)`|\*\*(?P<strong>[^*]+)\*\*|(?<!\w)\*(?P<weak>[^*\s][^*]*)\*(?!\w)"
    r"|\[(?P<text>[^]]+)\]\((?P<to>[^)]+)\)"
)
_ITEM: Final = re.compile(r"(?P<mark>[-*]|\d+\.) (?P<text>.*)")


def escaped(text: str) -> str:
    """Text that roff prints as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    text = re.sub("[^\\x00-\\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", text)
    text = text.replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    # A control character at the beginning of a line makes it a request.
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in text.split("\n"))


def inline(text: str) -> str:
    """Text with code in bold."""
    parts, at = [], 0
    for found in _INLINE.finditer(text):
        parts.append(escaped(text[at : found.start()]))
        if found["code"] is not None:
            parts.append(f"\\fB{escaped(found['code'])}\\fR")
        elif found["text"] is not None:
            parts.append(inline(found["text"]))
        else:
            parts.append(f"\\fI{escaped(found['strong'] or found['weak'])}\\fR")
        at = found.end()
    parts.append(escaped(text[at:]))
    whole = "".join(parts)
    return f"\\&{whole}" if whole.startswith(("'", ".")) else whole


def title(name: str, section: str, text: str) -> list[str]:
    """The beginning of a page."""
    return [
        _GENERATED,
        f'.TH {escaped(name.upper())} {section} "" "dprobed" "{_SECTIONS[section]}"',
        ".SH NAME",
        f"{escaped(name)} \\- {escaped(text)}",
    ]


def code(lines: list[str]) -> list[str]:
    """Lines as they are."""
    return [".PP", ".RS 4", ".nf", *map(escaped, lines), ".fi", ".RE"]


# -- commands ----------------------------------------------------------------------------------


def paragraphs(text: str) -> Iterator[str | list[str]]:
    """Click's help: paragraphs, and blocks of lines (``\\b``)."""
    for block in text.strip().split("\n\n"):
        flowing, *kept = re.split(r"^[ ]*\x08\n", block, flags=re.MULTILINE)
        if flowing:
            yield " ".join(line.strip() for line in flowing.split("\n"))
        for each in kept:
            yield [line.rstrip() for line in each.rstrip("\n").split("\n")]


def described(text: str) -> list[str]:
    """Click's help as roff."""
    lines: list[str] = []
    for each in paragraphs(text):
        lines += code(each) if isinstance(each, list) else [".PP", inline(each)]
    return lines


def usage(context: click.Context) -> list[str]:
    """How a command is called."""
    pieces = " ".join(context.command.collect_usage_pieces(context))
    return [".br", f".B {escaped(context.command_path)}", escaped(pieces)]


def options_of(context: click.Context) -> list[str]:
    """The options of a command."""
    lines = []
    for option in context.command.get_params(context):
        record = option.get_help_record(context)
        if record is not None:
            names, text = record
            lines += [".TP", f"\\fB{escaped(names)}\\fR", inline(text) or "\\&"]
    return lines


def examples(command: click.Command) -> list[str]:
    """What stands below the help: examples, mostly."""
    found: list[str] = []
    for each in paragraphs(command.epilog or ""):
        if isinstance(each, list) and each and each[0] == "examples:":
            found += code([line.removeprefix("  ") for line in each[1:]])
        else:
            found += code(each) if isinstance(each, list) else [".PP", inline(each)]
    return found


def command_page(name: str) -> str:
    """The page of a command, with those below it."""
    above = click.Context(cli, info_name="dprobe", **cli.context_settings)
    command = cli.get_command(above, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=above)
    below: list[click.Context] = []
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            inner = command.get_command(context, each)
            assert inner is not None
            below.append(click.Context(inner, info_name=each, parent=context))
    text = _COMMANDS[name].rstrip(".")
    lines = title(f"dprobe-{name}", "1", text[0].lower() + text[1:])
    lines.append(".SH SYNOPSIS")
    if not below or getattr(command, "invoke_without_command", False):
        lines += usage(context)
    for inside in below:
        lines += usage(inside)
    lines.remove(".br")  # the first one
    lines += [".SH DESCRIPTION", *described(command.help or "")[1:]]
    lines += [".SH OPTIONS", *options_of(context)]
    for inside in below:
        lines += [f'.SH "{escaped(inside.command_path.upper())}"']
        lines += described(inside.command.help or "")[1:]
        lines += options_of(inside)
        if more := examples(inside.command):
            lines += [".PP", "Examples:", *more]
    if more := examples(command):
        lines += [".SH EXAMPLES", *(more[1:] if more[0] == ".PP" else more)]
    lines += [
        ".SH SEE ALSO",
        ".BR dprobe (1),",
        "which has the exit statuses, files and environment variables of all commands;",
        ".BR dprobe\\-rpn (7),",
        ".BR dprobed (8)",
    ]
    return "\n".join(lines) + "\n"


# -- documents ---------------------------------------------------------------------------------


def document_page(page: str, source: str, text: str) -> str:
    """The page of a document."""
    name, section = page.rsplit(".", 1)
    lines = title(name, section, text)
    lines += [".SH DESCRIPTION", *_tidy(document((ROOT / "docs" / source).read_text()))]
    lines += [".SH SEE ALSO", ".BR dprobe (1),", ".BR dprobed.toml (5),", ".BR dprobed (8)"]
    return "\n".join(lines) + "\n"


def document(text: str) -> Iterator[str]:
    """Markdown as roff; the title is left out."""
    lines = [line for line in text.split("\n") if not line.startswith("<!--")]
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("```"):
            end = lines.index("```", at + 1)
            yield from code(lines[at + 1 : end])
            at = end + 1
        elif line.startswith("#"):
            level, _, heading = line.partition(" ")
            if level == "##":
                yield f'.SH "{inline(heading).upper() if _is_plain(heading) else inline(heading)}"'
            elif level != "#":
                yield f'.SS "{inline(heading)}"'
            at += 1
        elif line.startswith("    "):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end]):
                end += 1
            block = [each[4:] for each in lines[at:end]]
            while not block[-1]:
                block.pop()
            yield from code(block)
            at = end
        elif line.startswith("|"):
            end = at
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            yield from table(lines[at:end])
            at = end
        elif not line:
            at += 1
        else:
            end = at + 1
            while end < len(lines) and not _begins(lines[end]):
                end += 1
            paragraph = " ".join(each.strip() for each in lines[at:end])
            item = _ITEM.fullmatch(paragraph)
            if item is None:
                yield from (".PP", inline(paragraph))
            else:
                mark = "\\(bu" if item["mark"] in "-*" else item["mark"]
                yield from (f".IP {mark} 4", inline(item["text"]))
            at = end


def _is_plain(heading: str) -> bool:
    return _INLINE.search(heading) is None and "\\" not in inline(heading)


def _begins(line: str) -> bool:
    """Whether a line is none of a paragraph that began above."""
    return not line or line.startswith(("|", "#", "```")) or _ITEM.fullmatch(line) is not None


def _cells(row: str) -> list[str]:
    inner = row.strip().strip("|")
    return [each.strip().replace("\\|", "|") for each in re.split(r"(?<!\\)\|", inner)]


def table(rows: list[str]) -> Iterator[str]:
    """Each row under its first cell."""
    heads, *others = (_cells(row) for row in rows)
    for cells in others[1:]:
        first, *rest = cells
        yield ".TP"
        yield inline(first) or "\\&"
        texts = []
        for head, cell in zip(heads[1:], rest, strict=False):
            if cell:
                texts.append(f"{inline(head)}: {inline(cell)}" if head and len(rest) > 1
                             else inline(cell))  # fmt: skip
        yield "\n.br\n".join(texts) or "\\&"


def _tidy(lines: Iterator[str]) -> Iterator[str]:
    """Without paragraphs right behind a heading, which mandoc finds odd."""
    before = ".SH"
    for line in lines:
        if line != ".PP" or not before.startswith((".SH", ".SS")):
            yield line
        before = line


def configuration_page() -> str:
    """dprobed.toml(5): the file that the package brings, comment by comment."""
    lines = title("dprobed.toml", "5", "configuration of dprobed")
    lines += [".SH SYNOPSIS", ".I /etc/dprobed/dprobed.toml", ".br"]
    lines += [".I \\(ti/.config/dprobed/dprobed.toml", ".SH DESCRIPTION"]
    comment: list[str] = []
    settings: list[str] = []
    is_first = True
    for line in [*(ROOT / "etc" / "dprobed.toml").read_text().split("\n"), "# "]:
        is_setting = bool(line) and (not line.startswith("#") or re.match(r"# (\[|\w+ = )", line))
        if is_setting:
            settings.append(line)
        elif line.startswith("#"):
            if settings:
                lines += code(settings)
                settings = []
            comment.append(line[2:])
        if (not line or is_setting) and comment:
            lines += [inline(" ".join(comment))] if is_first else [".PP", *_comment(comment)]
            comment, is_first = [], False
    lines += [".SH SEE ALSO", ".BR dprobe\\-policy (5),", ".BR dprobed (8)"]
    return "\n".join(lines) + "\n"


def _comment(comment: list[str]) -> list[str]:
    """A comment: its indented lines stay lines."""
    plain = [line for line in comment if not line.startswith("  ")]
    listed = [line.strip() for line in comment if line.startswith("  ")]
    return [inline(" ".join(plain)), *(code(listed) if listed else [])]


def pages() -> dict[str, str]:
    """All pages that are written here."""
    found = {f"dprobe-{name}.1": command_page(name) for name in _COMMANDS}
    for page, (source, text) in _DOCUMENTS.items():
        found[page] = document_page(page, source, text)
    return found | {"dprobed.toml.5": configuration_page()}


def main() -> int:
    """Write them, or with ``--check`` say which are not up to date."""
    wanted = pages()
    # By hand are dprobe(1) and dprobed(8).
    there = {path.name for path in MAN.iterdir()} - {"dprobe.1", "dprobed.8"}
    stale = [name for name, text in wanted.items() if _text(MAN / name) != text]
    stale += sorted(there - wanted.keys())
    if "--check" in sys.argv:
        for name in stale:
            print(f"docs/man/{name} is not up to date; run: .venv/bin/python etc/man.py")
        return bool(stale)
    for name in stale:
        if name in wanted:
            (MAN / name).write_text(wanted[name])
        else:
            (MAN / name).unlink()
    return 0


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
