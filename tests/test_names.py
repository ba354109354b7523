"""No class is called twice for different things without its package telling them apart."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict

from tests.test_layers import MODULES, ROOT

#: Names that two rooms have, each a good one where it is.
TWICE = {
    "Admission": "of a process, to be a target; of a dump, to be written",
    "Connection": "the two ends of the control socket",
    "Core": "a core file; the parts that every daemon has",
    "Guard": "against the death of a tracer; an operation of the IR that raises",
    "Hit": "of the kernel's module; the words of one, as native programs find them",
    "Kind": "of a change to a target; of a stop",
    "Layout": "of gdb's registers; of a terminal",
    "Memory": "of a process, to be read and altered; to be written to a core",
    "Needs": "what a probe needs of its place; what a native program needs of who calls it",
    "Place": "where a probe goes; the words of one, as native programs find them",
    "Programs": "in the daemon, which numbers them; in a tracer, which inserts them",
    "Refusal": "of a request, by the daemon; of a place, by an engine",
    "Register": "of programs; of gdb's protocol",
    "Registers": "what programs see of them, and what that is in a tracer",
    "Segment": "of an ELF file, and what of it is needed to find addresses",
    "Session": "of a debugger; of a client",
    "Targets": "the daemon's, and those of one tracer",
    "Tracer": "what recovery asks of one; the loop of one",
}

#: Messages are called by what they ask or answer, structures of the kernel as in its header; both
#: are written with their module: `messages.Dump`, `abi.Record`; so are parts of a script's bundle
#: and of its tree: `bundle.Integer`, `tree.Call`.
QUALIFIED = (
    "dprobed.wire", "dprobed.kernel.abi", "dprobed.program.bt.bundle", "dprobed.program.bt.tree",
)  # fmt: skip


def test_a_class_has_a_name_of_its_own() -> None:
    where: dict[str, list[str]] = defaultdict(list)
    for module, path in MODULES.items():
        if not module.startswith(QUALIFIED):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    where[node.name].append(module)
    twice = {name: modules for name, modules in where.items() if len(modules) > 1}
    assert twice.keys() == TWICE.keys(), {
        name: twice.get(name, "only once") for name in twice.keys() ^ TWICE.keys()
    }


def test_a_private_name_is_used() -> None:
    """One that a decorator registers need not be; nor what Python itself looks for."""
    unused = []
    for path in MODULES.values():
        text = path.read_text()
        words = Counter(re.findall(r"\w+", text))
        for node in ast.parse(text).body:
            match node:
                case ast.AnnAssign(target=ast.Name(id=name)):
                    pass
                case ast.Assign(targets=[ast.Name(id=name)]):
                    pass
                case ast.FunctionDef(name=name, decorator_list=[]):
                    pass
                case ast.ClassDef(name=name, decorator_list=[]):
                    pass
                case _:
                    continue
            if name.startswith("_") and not name.startswith("__") and words[name] == 1:
                unused.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert not unused, "\n".join(unused)
