"""``dprobe query``: states and counters of probes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from dprobe.commands import complete, options
from dprobe.commands import pids as processes
from dprobe.lib.errors import UserError
from dprobe.view import probes
from dprobe.view.output import complain
from dprobed.wire import messages


@click.command(
    "query",
    cls=processes.PidsCommand,
    epilog="""\b
examples:
  dprobe query
  dprobe query alloc opens -p nginx
  dprobe query -x -p 1234 --json
  dprobe query -o pid,place,hits
""",
)
@click.option("-x", "extended", is_flag=True, help="All columns, and the processes.")
@processes.only
@options.listing(
    probes.PROBES,
    probes.PROBES_EXTENDED,
    probes.DEPLOYMENTS,
    probes.TARGETS,
    probes.EARLIER,
    probes.VARIABLES,
    probes.MAPS,
)
@click.argument("programs", nargs=-1, shell_complete=complete.programs)
@click.pass_obj
def query_command(
    socket: Path | None,
    programs: tuple[str, ...],
    extended: bool,
    pids: tuple[int, ...],
    json: bool,
    only: tuple[str, ...],
) -> None:
    """Show probes: of PROGRAMS (numbers or names), of some processes, or all.

    Who stands at a probe comes first; last, what programs counted in their local variables, summed
    over all their processes, and how full their maps are (`dprobe maps` shows what is in them).

    Exit status 2: a program that was named is not in.
    """
    selects = options.selections(programs, pids)
    with options.running(socket) as daemon:
        answers = [
            daemon.request(
                lambda number, select=select: messages.Query(id=number, select=select),  # type: ignore[misc]
                messages.Status,
            )
            for select in selects
        ]
        handlers = daemon.request(
            lambda number: messages.Handlers(id=number), messages.HandlerListing
        ).handlers
    for program in programs:
        number, label = (int(program), None) if program.isdecimal() else (None, program)
        if not any(
            each.deployments or each.probes or each.kept or each.earlier
            for select, each in zip(selects, answers, strict=True)
            if (select.number, select.label) == (number, label)
        ):
            raise UserError(f"there is no program {program}; `dprobe programs` lists them")
    merged = _merged(selects, answers)
    known = {each.pid for each in merged.targets} | {each.pid for each in merged.probes}
    processes.refuse_missing(pids, known)
    probes.show_status(
        merged,
        extended=extended,
        everything=not programs and not pids,
        json=json,
        only=only,
    )
    for line in probes.dead(handlers):
        complain(line)


def _merged(
    selects: Sequence[messages.Select], answers: Sequence[messages.Status]
) -> messages.Status:
    """Several answers as one, with everything once."""
    targets = {target.pid: target for each in answers for target in each.targets}
    # A probe may be in several modules.
    found = {
        (probe.number, probe.pid, probe.probe, probe.module, probe.place): probe
        for each in answers
        for probe in each.probes
    }
    deployments = {one.number: one for each in answers for one in each.deployments}
    kept = {(one.number, one.pid): one for each in answers for one in each.kept}
    earlier = {one.number: one for each in answers for one in each.earlier}
    # A program that was asked for twice, by its number and its name, is one; in several processes
    # it is in an answer for each.
    variables = {
        (one.number, select.pid): one
        for select, each in zip(selects, answers, strict=True)
        for one in each.variables
    }
    return msgspec.structs.replace(
        answers[0],
        targets=list(targets.values()),
        probes=list(found.values()),
        deployments=list(deployments.values()),
        kept=list(kept.values()),
        earlier=list(earlier.values()),
        variables=list(variables.values()),
        map_use=list(
            {(one.number, one.map): one for each in answers for one in each.map_use}.values()
        ),
    )
