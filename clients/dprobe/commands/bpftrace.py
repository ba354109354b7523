"""``dprobe bpftrace``: bpftrace's own command line, so that dprobe can stand in for it.

Options, exit statuses and the messages that scripts look for are bpftrace's; what needs the kernel
is refused, and options about BPF itself are taken and mean nothing.
"""

from __future__ import annotations

import getopt
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from dprobe.lib.errors import UserError
from dprobed import __version__

if TYPE_CHECKING:
    from dprobe.lib.script.source import Script

#: The release whose language and messages these are.
RELEASE: Final = "v0.26.0"
_SHORT: Final = "B:c:d:e:f:hI:klo:p:qVv"
_LONG: Final = (
    "help", "version", "info", "unsafe", "dry-run", "no-warnings", "include=",
    "usdt-file-activation", "no-feature=", "verify-llvm-ir", "emit-llvm=", "emit-elf=", "aot=",
    "mode=",
)  # fmt: skip
_MOST_PID: Final = 1 << 22
_NOTIFY: Final = "__BPFTRACE_NOTIFY_PROBES_ATTACHED"
_USAGE: Final = """\
USAGE:
    bpftrace [options] filename
    bpftrace [options] - (the script is standard input)
    bpftrace [options] -e 'program'

OPTIONS:
    -B MODE          when output is written: 'line', 'full' or 'none' (at once)
    -c 'COMMAND'     run COMMAND, and end with it
    -d STAGE         show the compiled programs, and run nothing
    --dry-run        put the probes in, take them out again, and end
    -e 'program'     this script
    -f FORMAT        'text' or 'json'
    -h, --help       this text
    -I DIR           look for #include files in DIR, too
    --include FILE   begin with #include "FILE"
    --info           what works here
    -l [SEARCH]      list probes: of a pattern, or of a script
    --no-warnings    no warnings
    -o FILE          write the output to FILE
    -p PID           only in this process, and end with it
    -q               say less
    --unsafe         allow system()
    -v               say more
    -V, --version    the version

What is behind the script are its parameters: $1, $2…; behind -- also
--NAME=VALUE.
Without -p and -c: every process that maps the module, those to come too.

examples:
    bpftrace -e 'uprobe:libc:open { printf("%s\\n", str(arg0)) }' -c 'cat FILE'
    bpftrace -l 'uprobe:libc:mall*'
"""


class CommandLine(msgspec.Struct):
    """A command line, taken apart. ``includes``, ``folders``: of options that may come again."""

    options: dict[str, str] = {}
    words: list[str] = []
    includes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    def has(self, *names: str) -> bool:
        """Whether one of these options is there."""
        return any(name in self.options for name in names)


class _Command(click.Command):
    """Takes its arguments as they are: they are not click's to read."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep them (click)."""
        ctx.meta["arguments"] = list(args)
        return super().parse_args(ctx, [])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """As the help shows it (click)."""
        return ["[OPTIONS]", "FILE|-e PROGRAM", "[PARAMETER...]"]


@click.command(
    "bpftrace",
    cls=_Command,
    epilog="""\b
examples:
  dprobe bpftrace -e 'uprobe:libc:malloc { @ = hist(arg0); }' -c 'ls /'
  dprobe bpftrace -p 1234 script.bt
  dprobe bpftrace -l 'uprobe:libc:mem*'
""",
)
@click.pass_context
def bpftrace_command(ctx: click.Context) -> int:
    """Run a script as bpftrace does: with its options, output and exit statuses.

    `dprobe bpftrace -h` shows the options. A link to dprobe that is called bpftrace does the same.
    """
    try:
        return run(ctx.obj, ctx.meta["arguments"])
    except UserError as error:
        return _failed(str(error))


def run(socket: Path | None, arguments: list[str]) -> int:
    """Do what a command line of bpftrace says; the exit status. Raises UserError."""
    try:
        line = taken_apart(arguments)
    except getopt.GetoptError as error:
        print(f"bpftrace: {error.msg}\n{_USAGE}", end="", file=sys.stderr)
        return 1
    if line.has("-h", "--help"):
        print(_USAGE, end="")
        return 0
    if line.has("-V", "--version"):
        print(f"bpftrace {RELEASE} (dprobe {__version__})")
        return 0
    if line.has("--info"):
        _show_info()
        return 0
    pid = _pid(line.options.get("-p"))
    form = line.options.get("-f", "text")
    if form not in ("text", "json"):
        raise UserError(f"Invalid output format \"{form}\"\nValid formats: 'text', 'json'")
    if line.options.get("-B", "line") not in ("line", "full", "none"):
        raise UserError(f"USAGE: -B must be either full, line or none ({line.options['-B']})")
    if pid is not None and line.has("-c"):
        raise UserError("USAGE: cannot use -c with -p")
    if line.has("-l"):
        from dprobe.commands.bpftrace_list import list_probes

        return list_probes(_script_of(line, listed=True), line.words, pid, verbose=line.has("-v"))
    return _run_script(socket, line, pid, form)


def taken_apart(arguments: list[str]) -> CommandLine:
    """The options and the other words of a command line; raises GetoptError.

    What is behind ``--`` are words, whatever they look like.
    """
    at = arguments.index("--") if "--" in arguments else len(arguments)
    before, behind = arguments[:at], arguments[at + 1 :]
    pairs, words = getopt.gnu_getopt(before, _SHORT, _LONG)
    return CommandLine(
        dict(pairs),
        [*words, *behind],
        tuple(value for name, value in pairs if name == "--include"),
        tuple(os.path.abspath(value) for name, value in pairs if name == "-I"),  # noqa: PTH100
    )


def _pid(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal():
        raise UserError(f"Failed to parse pid: pid '{text}' is not a valid decimal number")
    if not 1 <= int(text) <= _MOST_PID:
        raise UserError(f"Failed to parse pid: pid '{text}' out of valid pid range [1,{_MOST_PID}]")
    if not os.path.exists(f"/proc/{text}"):  # noqa: PTH110
        raise UserError(f"Failed to attach: there is no process {text}")
    return int(text)


def _script_of(line: CommandLine, *, listed: bool = False) -> Script | None:
    """The script of a command line, with all that it includes; None: there is none. ``listed``: a
    word that is no file is a pattern."""
    from dprobe.lib.script import source

    words = line.words
    if line.has("-e"):
        script = source.Script(line.options["-e"], source.COMMAND_LINE, tuple(words))
    elif not words or (listed and not os.path.isfile(words[0])):  # noqa: PTH113
        return None
    else:
        if words[0] != "-" and not os.path.exists(words[0]):  # noqa: PTH110
            raise UserError(f"failed to open file '{words[0]}': No such file or directory")
        script = source.read(words[0], words[1:])
    if script.bundle is not None and line.includes:
        raise UserError(f"{script.file}: it is compiled, and includes nothing (--include)")
    return msgspec.structs.replace(script, includes=line.includes, folders=line.folders)


def _run_script(socket: Path | None, line: CommandLine, pid: int | None, form: str) -> int:
    # Imported here: what only tells of versions and probes is quick without.
    from dprobe.commands import scripts
    from dprobe.lib.programs import Choice

    script = _script_of(line)
    if script is None:
        print(_USAGE, end="", file=sys.stderr)
        return 1
    how = scripts.ScriptOptions(
        Choice(),
        form=form,
        path=line.options.get("-o"),
        unsafe=line.has("--unsafe"),
        bare=False,
        mode=line.options.get("-B", "line"),
        warnings=not line.has("--no-warnings"),
        quiet=not line.has("-v"),
        announce=not line.has("-q"),
        notify=_NOTIFY if os.environ.get(_NOTIFY) else "",
        dry=line.has("--dry-run"),
        follow_forks=False,
    )
    if line.has("-d", "--emit-llvm", "--emit-elf", "--aot"):
        return scripts.show_compiled(script)
    if line.has("-c"):
        return scripts.run_script(
            socket, script, _words_of(line.options["-c"]), how, of_bpftrace=True
        )
    return scripts.attach_script(socket, script, () if pid is None else (pid,), how)


def _words_of(command: str) -> list[str]:
    import shlex

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"Failed to fork child: {error}: {command}") from None
    if not words:
        raise UserError("Failed to fork child: there is no command")
    return words


def _in_kernel() -> str:
    """Whether there can be probes in the kernel."""
    return "yes" if os.path.exists("/dev/dprobes") else "no"  # noqa: PTH110


def _show_info() -> None:
    """What there is, in the sections of bpftrace's own ``--info``."""
    yes = "yes"
    rows: dict[str, dict[str, Any]] = {
        "System": {
            "OS": f"{platform.system()} {platform.release()} {platform.version()}",
            "Arch": platform.machine(),
        },
        "Build": {"version": f"{RELEASE} (dprobe {__version__})"},
        "Probe types": {
            "uprobe": yes, "uretprobe": yes, "usdt": yes, "watchpoint": yes, "interval": yes,
            "kprobe": _in_kernel(), "kretprobe": _in_kernel(), "tracepoint": _in_kernel(),
            "fentry": "no", "iter": "no",
        },
    }  # fmt: skip
    for title, fields in rows.items():
        print(title)
        for name, value in fields.items():
            print(f"  {name}: {value}")
        print()


def _failed(text: str) -> int:
    """Say what is wrong, as bpftrace does."""
    first, newline, rest = text.partition("\n")
    known = "ERROR: " in first or "error: " in first
    sys.stdout.flush()
    print(f"{'' if known else 'ERROR: '}{first}{newline}{rest}", file=sys.stderr)
    return 1
