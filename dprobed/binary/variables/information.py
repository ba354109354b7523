"""Types, functions and variables of a module by its debug information, or its separate debug
file's; and where variables are at an address.

Answers are small typed values (``program.variables``) with addresses as the module has them. In
libpython (11 MB of entries) the first answer takes less than a second, the next ones milliseconds.
"""

from __future__ import annotations

from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf import names
from dprobed.binary.dwarf.types import qualified_name
from dprobed.binary.dwarf.units import DebugEntry
from dprobed.binary.file import Binary
from dprobed.binary.variables.functions import FunctionFinder
from dprobed.binary.variables.module import ModuleDebug
from dprobed.binary.variables.visible import VisibleFinder
from dprobed.program.variables import Functions, NamedType, SourceVariable, Visible


class DebugInformation:
    """The debug information of one module."""

    def __init__(self, elf: Binary) -> None:
        """Find it; raises LocationError where there is none."""
        self._module = ModuleDebug(elf)
        self._functions = FunctionFinder(self._module)
        self._variables = VisibleFinder(self._module)

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return self._module.debug.size

    @property
    def identities(self) -> tuple[tuple[int, ...], ...]:
        """What identifies the unchanged files that it is from."""
        return self._module.elf.identity, self._module.source.identity

    @property
    def is_closed(self) -> bool:
        """Whether all of it is in these files: nothing in split files, or in that of ``dwz``."""
        return self._module.debug.is_closed

    def type_named(self, name: str) -> NamedType:
        """A type by its name (``struct point``, ``point_t``, ``ns::Shape``); raises LocationError
        where there is none."""
        self._module.debug.shrink()
        kind, _, rest = name.strip().partition(" ")
        keyword = kind if kind in ("struct", "class", "union", "enum") else ""
        wanted = (rest if keyword else name).strip()
        found = self._definition(wanted, keyword)
        if found is None:
            raise self._module.unknown("type", name, names.TYPES)
        table = self._module.table()
        index = table.add(found)
        return NamedType(index, table.table())

    def _definition(self, wanted: str, keyword: str = "") -> DebugEntry | None:
        """The definition of a type; a declaration of it where there is nothing else."""
        _, last = names.parts_of(wanted)
        kinds: dict[str, tuple[int, ...]] = {
            "struct": (dw.STRUCTURE_TYPE, dw.CLASS_TYPE),
            "class": (dw.STRUCTURE_TYPE, dw.CLASS_TYPE),
            "union": (dw.UNION_TYPE,),
            "enum": (dw.ENUMERATION_TYPE,),
        }
        tags = kinds.get(keyword, names.TYPES)
        declared: DebugEntry | None = None
        for entry in names.named(self._module.debug, last, tags):
            if wanted not in (qualified_name(entry), entry.text(dw.NAME)):
                continue
            if dw.DECLARATION not in entry.attributes:
                return entry
            declared = declared or entry
        return declared

    def functions_named(self, name: str) -> Functions:
        """The functions of a name (``handle``, ``ns::Class::method``, with the types of its
        parameters, or as the linker calls it): overloads, out of line and inlined; raises
        LocationError where there is none."""
        return self._functions.functions_named(name)

    def function_at(self, vaddr: int) -> Functions:
        """The function whose code is at an address; raises LocationError."""
        return self._functions.function_at(vaddr)

    def visible(self, vaddr: int, *, outside: bool = True) -> Visible:
        """Every variable that is visible at an address; ``outside``: those outside of functions,
        too. Raises LocationError where nothing is known of that address."""
        return self._variables.visible(vaddr, outside=outside)

    def variable(self, name: str, vaddr: int) -> tuple[SourceVariable, Visible]:
        """A variable by name as it is meant at an address, with what it refers to; raises
        LocationError where there is none."""
        return self._variables.variable(name, vaddr)

    def global_named(self, name: str) -> Visible | None:
        """A variable of any unit that is outside of functions; None where there is none."""
        return self._variables.global_named(name)
