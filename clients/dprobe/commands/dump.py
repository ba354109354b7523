"""``dprobe dump``: a core of a running process, which goes on."""

from __future__ import annotations

from pathlib import Path

import click

from dprobe.commands import options
from dprobe.private import running_or_private


@click.command(
    "dump",
    epilog="""\b
examples:
  dprobe dump $(pidof redis-server)
  gdb /usr/bin/redis-server "$(dprobe dump 1234)"
""",
)
@click.option("--zstd", is_flag=True, help="Compress the core, with the command `zstd`.")
@options.json
@click.argument("pid", type=options.pid_type)
@click.pass_obj
def dump_command(socket: Path | None, pid: int, zstd: bool, json: bool) -> None:
    """Write a core of process PID, which goes on meanwhile, and print where it is."""
    with running_or_private(socket, options.complain) as daemon:
        # Imported late: a private daemon starts in the meantime.
        import msgspec

        from dprobed.wire import messages

        connection = daemon.connect()
        connection.request(lambda number: messages.Attach(id=number, pid=pid), messages.Attached)
        done = connection.request(
            lambda number: messages.Dump(id=number, pid=pid, zstd=zstd), messages.Dumped
        )
    print(msgspec.json.encode(done).decode() if json else done.path)
