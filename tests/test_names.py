"""No class is called twice for different things without its package telling them apart."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.test_layers import MODULES

#: Names that two rooms have, each a good one where it is.
TWICE = {
    "Admission": "of a process, to be a target; of a dump, to be written",
    "Connection": "the two ends of the control socket",
    "Core": "a core file; the parts that every daemon has",
    "Guard": "against the death of a tracer; an operation of the IR that raises",
    "Kind": "of a change to a target; of a stop",
    "Layout": "of gdb's registers; of a terminal",
    "Memory": "of a process, to be read and altered; to be written to a core",
    "Programs": "in the daemon, which numbers them; in a tracer, which inserts them",
    "Refusal": "of a request, by the daemon; of a place, by an engine",
    "Register": "of programs; of gdb's protocol",
    "Registers": "what programs see of them, and what that is in a tracer",
    "Segment": "of an ELF file, and what of it is needed to find addresses",
    "Session": "of a debugger; of a client",
    "Targets": "the daemon's, and those of one tracer",
    "Tracer": "what recovery asks of one; the loop of one",
}

#: Messages are called by what they ask or answer, and written with their module: `messages.Dump`.
MESSAGES = "dprobed.wire"


def test_a_class_has_a_name_of_its_own() -> None:
    where: dict[str, list[str]] = defaultdict(list)
    for module, path in MODULES.items():
        if not module.startswith(MESSAGES):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    where[node.name].append(module)
    twice = {name: modules for name, modules in where.items() if len(modules) > 1}
    assert twice.keys() == TWICE.keys(), {
        name: twice.get(name, "only once") for name in twice.keys() ^ TWICE.keys()
    }
