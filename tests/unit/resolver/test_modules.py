"""Modules of live processes: what is mapped where, and which file that really is."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dprobed.binary.errors import LocationError
from dprobed.binary.file import Binary
from dprobed.binary.places import place_at, resolve, resolve_data
from dprobed.binary.relocations import ifunc_slots, import_slots
from dprobed.proc import maps
from dprobed.proc.maps import MapsError
from dprobed.resolver import modules as resolver_modules
from dprobed.resolver.addresses import address_of, biases, data_address_of
from dprobed.resolver.files import KnownFiles
from dprobed.resolver.modules import matches
from tests.unit.location_files import LIBC, hand_made, library, look, open_path, program, run


@contextmanager
def running(path: Path | str, *before: str) -> Iterator[int]:
    """The pid of a process that has printed its line and waits for its input to end."""
    with subprocess.Popen(
        [*before, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process.pid
        process.communicate()


def module_of(pid: int, name: str) -> tuple[maps.Module, Binary]:
    found = [
        (module, elf)
        for module in maps.modules(pid)
        for elf in [open_module(module)]
        if matches(module, elf, name)
    ]
    assert len(found) == 1, name
    return found[0]


def open_module(module: maps.Module) -> Binary:
    """The mapped file, as far as it is surely that."""
    look(KnownFiles().describe(module))
    opened = resolver_modules.open_module(module)
    return Binary(opened.descriptor, module.path, opened.root)


def memory(pid: int, address: int, size: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        return os.pread(file.fileno(), size, address)


@pytest.fixture
def no_map_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for users who may not open ``/proc/PID/map_files``."""
    original = os.open

    def refusing(path: str, flags: int, mode: int = 0o777) -> int:
        if "map_files" in str(path):
            raise PermissionError(1, "Operation not permitted")
        return original(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)


FLAGS = [(), ("-no-pie",), ("-static", "-no-pie"), ("-static-pie",)]
FLAGS.append(("-no-pie", "-Wl,--section-start=far_code=0x900000"))
FLAGS.append(("-Wl,-z,noseparate-code",))


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_addresses_in_the_process(flags: tuple[str, ...]) -> None:
    path = program(*flags)
    with running(path) as pid:
        module, elf = module_of(pid, path.name)
        for name in ("main", "far_function", "location_main.c:helper"):
            (place,) = resolve(elf, name)
            (address,) = address_of(module, elf, place.file_offset)
            assert memory(pid, address, 8) == elf.read(place.file_offset, 8)
            assert [address] == data_address_of(module, elf, place.vaddr)
        # Data: the program's own, and what it has in .bss.
        (address,) = data_address_of(module, elf, resolve_data(elf, "global_data").vaddr)
        assert memory(pid, address, 4) == struct.pack("<i", 7)
        (address,) = data_address_of(module, elf, resolve_data(elf, "zeroed_data").vaddr)
        assert memory(pid, address, 4) == bytes(4)


@pytest.mark.parametrize("flags", FLAGS[:4], ids=" ".join)
def test_ifunc_is_found_in_the_process(flags: tuple[str, ...]) -> None:
    path = program(*flags)
    with running(path) as pid:
        module, elf = module_of(pid, path.name)
        (bias,) = biases(module, elf)
        (resolver,) = resolve(elf, "chosen_at_start")
        slots = ifunc_slots(elf, resolver.vaddr)
        assert slots
        for slot in slots:
            (address,) = data_address_of(module, elf, slot)
            (chosen,) = struct.unpack("<Q", memory(pid, address, 8))
            assert place_at(elf, chosen - bias).name == "chosen+0x0"


def test_imported_ifunc_is_found_in_the_process() -> None:
    path = program("-rdynamic", "-Wl,-z,now")
    with running(path) as pid:
        module, elf = module_of(pid, path.name)
        library_module, libc = module_of(pid, "libc.so.6")
        (bias,) = biases(library_module, libc)
        (resolver,) = resolve(libc, "strrchr")
        assert resolver.kind == "ifunc"
        (slot,) = import_slots(elf, resolver.symbol, resolver.version)
        (address,) = data_address_of(module, elf, slot)
        (chosen,) = struct.unpack("<Q", memory(pid, address, 8))
        assert place_at(libc, chosen - bias).boundary == "ok"
        assert chosen - bias != resolver.vaddr


def test_modules() -> None:
    with running(program()) as pid:
        lines = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        paths = {line[5] for line in lines if line[1] == "r-xp" and "/" in line[-1]}
        modules = maps.modules(pid)
        assert {module.path for module in modules} == paths
        for module in modules:
            assert [f"{m.start:x}-{m.end:x} {m.perms}" for m in module.mappings] == [
                f"{line[0]} {line[1]}" for line in lines if line[5:] == [module.path]
            ]
            assert module.base == min(m.start for m in module.mappings)
            assert not module.deleted
            assert module.key == (module.mappings[0].dev, module.mappings[0].inode)


def test_names_of_a_module(tmp_path: Path) -> None:
    path = tmp_path / "named 1.2"
    shutil.copy(library(), path)
    (tmp_path / "link").symlink_to(path.name)
    (tmp_path / "other").symlink_to(LIBC)
    mapping = maps.Mapping(0x1000, 0x2000, "r-xp", 0, "00:01", 5, str(path), False)
    module = maps.Module(os.getpid(), 1, str(path), ("00:01", 5), (mapping,))
    elf = open_path(str(path))
    assert elf.build_id is not None
    names = [str(path), path.name, "libversions.so.1", elf.build_id, elf.build_id.upper(), "link"]
    names += [
        str(tmp_path / "link"),
        f"{tmp_path.name}/{path.name}",
        f"./{tmp_path.name}//named 1.2",
    ]
    for name in names:
        assert matches(module, elf, name), name
    for name in ("a\0b", "/a\0b", "\ud800"):
        assert not matches(module, elf, name), name
    for name in ("named", "libversions.so", elf.build_id[:-1], "other", str(tmp_path), "1.2", LIBC):
        assert not matches(module, elf, name), name
    assert matches(module, None, "named 1.2")
    assert not matches(module, None, "libversions.so.1")


def test_links_are_looked_at_anew_for_another_process_of_the_same_number(tmp_path: Path) -> None:
    path, link = tmp_path / "named 1.2", tmp_path / "link"
    first = maps.Module(os.getpid(), 1, str(path), ("00:01", 5), ())
    names = (str(link), link.name)
    assert not any(matches(first, None, name) for name in names)
    link.symlink_to(path.name)
    second = first._replace(born=2)
    assert all(matches(second, None, name) for name in names)


def test_symbolic_links_of_another_root(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("/usr/lib")
    (tmp_path / "usr/lib/x.so").symlink_to("../../usr/./lib/x.so.1")
    (tmp_path / "loop").symlink_to("loop")
    assert resolver_modules._real(str(tmp_path), "/lib/x.so") == "/usr/lib/x.so.1"
    assert resolver_modules._real(str(tmp_path), "/../lib/y") == "/usr/lib/y"
    assert resolver_modules._real(str(tmp_path), "/loop") == "/loop"


def test_odd_paths(tmp_path: Path) -> None:
    path = tmp_path / "a b\nc (deleted)é"
    shutil.copy(program(), path)
    with running(path) as pid:
        module, elf = module_of(pid, path.name)
        assert module.path == str(path)
        assert not module.deleted
        assert resolve(elf, "main")


def replaced(tmp_path: Path) -> tuple[Path, Binary, Path]:
    path = tmp_path / "prog"
    shutil.copy(program(), path)
    new = tmp_path / "new"
    shutil.copy(program("-O2"), new)
    return path, Binary(os.open(path, os.O_RDONLY), str(path)), new


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_mapped_file_counts_not_the_one_on_disk(how: str, tmp_path: Path) -> None:
    path, old, new = replaced(tmp_path)
    with running(path) as pid:
        if how == "replaced":
            new.replace(path)
        else:
            path.unlink()
        module, elf = module_of(pid, "prog")
        assert (module.path, module.deleted) == (str(path), True)
        assert elf.build_id == old.build_id
        (place,) = resolve(elf, "strong_function")
        (address,) = address_of(module, elf, place.file_offset)
        assert memory(pid, address, 16) == old.read(place.file_offset, 16)


@pytest.mark.usefixtures("no_map_files")
class TestWithoutMapFiles:
    def test_build_id_in_memory_agrees(self) -> None:
        with running(program()) as pid:
            _, elf = module_of(pid, program().name)
            assert resolve(elf, "main")
            _, libc = module_of(pid, "libc.so.6")
            assert libc.build_id == open_path(LIBC).build_id

    @pytest.mark.parametrize("how", ["replaced", "deleted", "moved back"])
    def test_replaced_file_is_refused(self, how: str, tmp_path: Path) -> None:
        path, _, new = replaced(tmp_path)
        with running(path) as pid:
            if how == "deleted":
                path.unlink()
            else:
                new.replace(path)
            (module,) = [m for m in maps.modules(pid) if m.path == str(path)]
            if how == "moved back":  # another file, and the kernel does not call it deleted
                module = module._replace(
                    mappings=tuple(m._replace(deleted=False) for m in module.mappings)
                )
            with pytest.raises(LocationError, match="was replaced or deleted since process"):
                open_module(module)

    def test_without_build_id_the_inode_decides(self, tmp_path: Path) -> None:
        path = tmp_path / "anonymous"
        shutil.copy(program("-Wl,--build-id=none"), path)
        with running(path) as pid:
            (module,) = [m for m in maps.modules(pid) if m.path == str(path)]
            assert open_module(module).build_id is None
            shutil.copy(path, tmp_path / "copy")
            (tmp_path / "copy").replace(path)
            module = module._replace(
                mappings=tuple(m._replace(deleted=False) for m in module.mappings)
            )
            with pytest.raises(LocationError, match="without a build-id"):
                open_module(module)

    def test_other_mount_namespace(self, tmp_path: Path) -> None:
        """The process sees another file at the same path as we do."""
        for name, flags in (("here", ("-O2",)), ("there", ())):
            (tmp_path / name).mkdir()
            shutil.copy(program(*flags), tmp_path / name / "prog")
        path = tmp_path / "here" / "prog"
        script = f'mount --bind {tmp_path}/there {tmp_path}/here && exec "$0"'
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        with running(path, "unshare", *user, "--mount", "sh", "-c", script) as pid:
            module, elf = module_of(pid, str(path))
            assert elf.root == f"/proc/{pid}/root"
            assert elf.build_id == open_path(str(program())).build_id
            assert elf.build_id != open_path(str(path)).build_id
            (place,) = resolve(elf, "main")
            (address,) = address_of(module, elf, place.file_offset)
            assert memory(pid, address, 8) == elf.read(place.file_offset, 8)


def test_one_file_mapped_twice(tmp_path: Path) -> None:
    """dlmopen loads a library once for each name space: a place in it has two addresses."""
    source = tmp_path / "twice.c"
    source.write_text(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <stdio.h>\n"
        "int main(void)\n{\n"
        f'    const char *path = "{library()}";\n'
        "    if (!dlopen(path, RTLD_NOW) || !dlmopen(LM_ID_NEWLM, path, RTLD_NOW)) return 1;\n"
        '    puts("ready"); fflush(stdout);\n    return getchar() != EOF;\n}\n'
    )
    run("gcc", source, "-o", tmp_path / "twice")
    with running(tmp_path / "twice") as pid:
        module, elf = module_of(pid, "libversions.so.1")
        (place,) = resolve(elf, "plain")
        addresses = address_of(module, elf, place.file_offset)
        assert len(set(addresses)) == 2
        assert sorted(addresses) == sorted(data_address_of(module, elf, place.vaddr))
        for address in addresses:
            assert memory(pid, address, 8) == elf.read(place.file_offset, 8)
        assert address_of(module, elf, 0) == []


def test_two_segments_that_share_a_page_of_the_file(tmp_path: Path) -> None:
    """Each mapping holds the other segment's bytes too: those are not where its code runs."""
    path = hand_made(
        tmp_path / "shared", (1, 5, 0x1000, 0x1000, 0x300), (1, 5, 0x1300, 0x501300, 0x300)
    )
    mappings = tuple(
        maps.Mapping(start, start + 0x1000, "r-xp", 0x1000, "00:01", 5, str(path), False)
        for start in (0x7F0000001000, 0x7F0000501000)
    )
    module = maps.Module(os.getpid(), 1, str(path), ("00:01", 5), mappings)
    elf = open_path(str(path))
    assert biases(module, elf) == [0x7F0000000000]
    assert address_of(module, elf, 0x1100) == [0x7F0000001100]
    assert address_of(module, elf, 0x1400) == [0x7F0000501400]


def test_processes_that_are_gone_or_have_no_maps() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(MapsError, match=f"no process {child.pid}"):
        maps.modules(child.pid)
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert maps.modules(pid) == []
    os.waitpid(pid, 0)


def test_a_link_that_cannot_be_looked_for_is_none(tmp_path: Path) -> None:
    """ENAMETOOLONG here; EACCES and ENOTCONN in folders that cannot be searched."""
    mapping = maps.Mapping(0x1000, 0x2000, "r-xp", 0, "00:01", 7, f"{tmp_path}/lib.so", False)
    module = maps.Module(os.getpid(), 1, f"{tmp_path}/lib.so", ("00:01", 7), (mapping,))
    assert not matches(module, None, "x" * 300)
