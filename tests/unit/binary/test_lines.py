"""file.c:line, by the line tables of the file or of its separate debug file."""

from __future__ import annotations

import itertools
import lzma
import shutil
from pathlib import Path

import pytest

from dprobed.binary import debug_files
from dprobed.binary.errors import LocationError
from dprobed.binary.places import Place, resolve
from tests.unit.location_files import FOLDER, LIBC, TARGETS, objcopy, open_path, program, run

FORMATS = ["-gdwarf-2", "-gdwarf-3", "-gdwarf-4", "-gdwarf-5", "-gdwarf64"]
LOOP = next(
    number
    for number, text in enumerate((TARGETS / "location_main.c").read_text().splitlines(), 1)
    if "line of the loop" in text
)


def places(path: Path | str, spec: str) -> list[Place]:
    return resolve(open_path(str(path)), spec)


def refusal(path: Path | str, spec: str) -> LocationError:
    with pytest.raises(LocationError) as caught:
        places(path, spec)
    return caught.value


def rows(path: Path, file: str) -> dict[int, set[int]]:
    """Line → addresses of statements, as readelf decodes them."""
    found: dict[int, set[int]] = {}
    for line in run("readelf", "--debug-dump=decodedline", path).splitlines():
        parts = line.split()
        if len(parts) >= 4 and parts[0] == file and parts[1].isdigit() and parts[-1] == "x":
            found.setdefault(int(parts[1]), set()).add(int(parts[2], 16))
    return found


@pytest.mark.parametrize("version", FORMATS)
def test_every_line_against_readelf(version: str) -> None:
    path = program("-g", version)
    for file in ("location_main.c", "location_other.c"):
        wanted = rows(path, file)
        assert wanted
        for line, addresses in wanted.items():
            found = places(path, f"{file}:{line}")
            assert found
            assert {place.vaddr for place in found} <= addresses
            assert min(addresses) in {place.vaddr for place in found}
            assert all(place.boundary == "ok" for place in found)
        for line in range(1, max(wanted) + 3):
            if line not in wanted:
                assert "no code begins at" in refusal(path, f"{file}:{line}").message


def test_one_place_in_each_function() -> None:
    # A loop's line has code before and after its body; it is one place of main.
    found = places(program(), f"location_main.c:{LOOP}")
    assert [place.symbol for place in found] == ["main"]
    assert len(rows(program(), "location_main.c")[LOOP]) > 1


def test_inlined_line_has_several_places(tmp_path: Path) -> None:
    source = tmp_path / "inlined.c"
    source.write_text(
        "#include <stdlib.h>\n"
        "static inline __attribute__((always_inline)) void end(int n)\n"
        "{\n"
        "    if (n > 100) exit(n);\n"
        "}\n"
        "__attribute__((noinline)) int one(int n) { end(n); return n * 2; }\n"
        "__attribute__((noinline)) int two(int n) { end(n); return n * 3; }\n"
        "int main(int argc, char **argv) { return one(argc) + two((int)(long)argv); }\n"
    )
    run("gcc", "-g", "-O2", source, "-o", tmp_path / "inlined")
    found = places(tmp_path / "inlined", "inlined.c:4")
    assert {"one", "two"} <= {place.symbol for place in found}


def test_paths() -> None:
    path = program()
    line = min(rows(path, "location_main.c"))
    (want,) = places(path, f"location_main.c:{line}")
    for name in ("targets/location_main.c", "tests/targets/location_main.c"):
        assert places(path, f"{name}:{line}") == [want]
    assert places(path, f"{TARGETS / 'location_main.c'}:{line}") == [want]
    assert (
        "no source file other/location_main.c"
        in refusal(path, f"other/location_main.c:{line}").message
    )
    assert "no source file main.c" in refusal(path, f"main.c:{line}").message


def test_two_files_of_one_name_are_ambiguous(tmp_path: Path) -> None:
    for folder, number in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        text = f"int {folder}(int n)\n{{\n    return n + {number};\n}}\n"
        (tmp_path / folder / "same.c").write_text(text)
    (tmp_path / "main.c").write_text(
        "int one(int); int two(int);\nint main(int n, char **v) { return one(n) + two(n) + !v; }\n"
    )
    sources = [tmp_path / name for name in ("main.c", "one/same.c", "two/same.c")]
    run("gcc", "-g", *sources, "-o", tmp_path / "both")
    error = refusal(tmp_path / "both", "same.c:3")
    assert "same.c:3 is ambiguous: 2 files" in error.message
    assert [places(tmp_path / "both", spec)[0].symbol for spec in error.candidates] == [
        "one",
        "two",
    ]
    assert places(tmp_path / "both", "two/same.c:3")[0].symbol == "two"


def test_discarded_code_is_passed_over(tmp_path: Path) -> None:
    source = tmp_path / "discarded.c"
    source.write_text(
        "int unused(int n)\n{\n    return n + 1;\n}\nint main(void)\n{\n    return 0;\n}\n"
    )
    made = tmp_path / "discarded"
    run("gcc", "-g", "-ffunction-sections", "-Wl,--gc-sections", source, "-o", made)
    assert places(made, "discarded.c:7")[0].symbol == "main"
    assert "not in this file" in refusal(made, "discarded.c:3").message


def test_hints() -> None:
    first = min(rows(program(), "location_main.c"))
    assert refusal(program(), "location_main.c:1").candidates == (f"location_main.c:{first}",)
    assert "location_main.c" in refusal(program(), "location_mian.c:3").candidates
    stripped = objcopy(program(), "nolines", "--strip-all", "--remove-section=.gnu_debuglink")
    assert "compile with -g" in refusal(stripped, "location_main.c:1").hint


def test_compressed_line_tables() -> None:
    path = objcopy(program(), "zipped", "--compress-debug-sections=zlib")
    assert places(path, f"location_main.c:{LOOP}") == places(program(), f"location_main.c:{LOOP}")


_numbers = itertools.count()


def split(*flags: str) -> tuple[Path, Path]:
    """A program without symbols, and its debug file elsewhere."""
    whole = program(*flags)
    number = next(_numbers)
    debug = objcopy(whole, f"split{number}.debug", "--only-keep-debug", "--compress-debug-sections")
    return objcopy(whole, f"split{number}", "--strip-all"), debug


def test_debug_file_by_build_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug_files, "_DEBUG_FOLDER", str(tmp_path))
    stripped, debug = split("-rdynamic")
    build_id = open_path(str(stripped)).build_id
    assert build_id is not None
    folder = tmp_path / ".build-id" / build_id[:2]
    folder.mkdir(parents=True)
    shutil.copy(debug, folder / f"{build_id[2:]}.debug")
    whole = program("-rdynamic")
    for spec in ("location_main.c:helper", f"location_main.c:{LOOP}", "location_main.c:helper+4"):
        assert places(stripped, spec) == places(whole, spec)
    assert resolve(open_path(str(stripped)), "strong_function")[0].boundary == "ok"


def with_mini(data: bytes) -> Path:
    """A program without symbols, with this in .gnu_debugdata."""
    number = next(_numbers)
    content = FOLDER / f"mini{number}.xz"
    content.write_bytes(data)
    stripped = objcopy(program(), f"bare{number}", "--strip-all", "--remove-section=.gnu_debuglink")
    return objcopy(stripped, f"mini{number}", f"--add-section=.gnu_debugdata={content}")


def test_symbols_in_the_file_itself() -> None:
    """.gnu_debugdata, as Fedora's packages have it (gdb manual, "MiniDebugInfo")."""
    debug = objcopy(program(), "mini.debug", "--only-keep-debug")
    mini = objcopy(debug, "mini.elf", "-S", "--remove-section=.comment", "--keep-symbol=helper",
                   "--keep-symbol=strong_function")  # fmt: skip
    made = with_mini(lzma.compress(mini.read_bytes(), lzma.FORMAT_XZ))
    assert places(made, "strong_function") == places(program(), "strong_function")
    assert len(refusal(made, "helper").candidates) == len(refusal(program(), "helper").candidates)
    assert not open_path(str(made)).is_stripped


@pytest.mark.parametrize(
    "what", ["cut", "rubbish", pytest.param("endless", marks=pytest.mark.slow)]
)
def test_damaged_symbols_in_the_file_itself(what: str) -> None:
    """As good as none, and they take no memory."""
    packed = lzma.compress(program().read_bytes(), lzma.FORMAT_XZ)
    data = {"cut": packed[:-100], "rubbish": b"x" * 100}.get(what)
    if data is None:
        data = lzma.compress(bytes(65 << 20), lzma.FORMAT_XZ, preset=0)
    made = with_mini(data)
    assert open_path(str(made)).is_stripped
    assert refusal(made, "strong_function").message


def test_debug_file_of_another_build_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debug_files, "_DEBUG_FOLDER", str(tmp_path))
    stripped, _ = split("-rdynamic", "-DONE")
    _, other = split("-rdynamic", "-O2")
    build_id = open_path(str(stripped)).build_id or ""
    folder = tmp_path / ".build-id" / build_id[:2]
    folder.mkdir(parents=True)
    shutil.copy(other, folder / f"{build_id[2:]}.debug")
    assert "no symbol helper" in refusal(stripped, "helper").message
    (folder / f"{build_id[2:]}.debug").write_bytes(b"\x7fELF rubbish")
    assert "no line numbers" in refusal(stripped, f"location_main.c:{LOOP}").message


@pytest.mark.parametrize("place", ["beside", "debug", "global"])
@pytest.mark.parametrize("identified", ["--build-id", "--build-id=none"])
def test_debug_link(
    place: str, identified: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debug_files, "_DEBUG_FOLDER", str(tmp_path / "global"))
    flags = ("-rdynamic", f"-Wl,{identified}")
    stripped, debug = split(*flags)
    linked = tmp_path / "linked"
    run("objcopy", f"--add-gnu-debuglink={debug}", stripped, linked)
    folder = {
        "beside": tmp_path,
        "debug": tmp_path / ".debug",
        "global": Path(f"{tmp_path}/global{tmp_path}"),
    }[place]
    folder.mkdir(parents=True, exist_ok=True)
    whole = open_path(str(program(*flags)))
    assert "no symbol helper" in refusal(linked, "helper").message
    shutil.copy(debug, folder / debug.name)
    again = tmp_path / "again"  # another file: what is known of an opened one stays as it is
    shutil.copy(linked, again)
    assert places(again, f"location_main.c:{LOOP}") == resolve(whole, f"location_main.c:{LOOP}")
    assert places(again, "location_main.c:helper") == resolve(whole, "location_main.c:helper")


def test_debug_link_to_a_changed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug_files, "_DEBUG_FOLDER", str(tmp_path / "none"))
    stripped, debug = split("-rdynamic", "-Wl,--build-id=none")
    linked = tmp_path / "linked"
    run("objcopy", f"--add-gnu-debuglink={debug}", stripped, linked)
    (tmp_path / debug.name).write_bytes(debug.read_bytes() + b"\0")
    assert "no symbol helper" in refusal(linked, "helper").message


def test_prelinked_after_the_debug_file_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library was moved as ``prelink`` does it: its addresses differ from its debug file's."""
    monkeypatch.setattr(debug_files, "_DEBUG_FOLDER", str(tmp_path / "none"))
    source = TARGETS / "location_other.c"
    flags = ("-g", "-O1", "-shared", "-fPIC", "-Wl,--build-id=none")
    for name, base in (("here.so", "0x41000000"), ("there.so", "0x0")):
        run("gcc", *flags, source, f"-Wl,-Ttext-segment={base}", "-o", tmp_path / name)
    debug = tmp_path / "there.debug"
    run("objcopy", "--only-keep-debug", tmp_path / "there.so", debug)
    linked = tmp_path / "linked.so"
    run("objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", tmp_path / "here.so", linked)
    (place,) = places(linked, "helper")
    (want,) = places(tmp_path / "here.so", "helper")
    assert place.vaddr == want.vaddr > 0x41000000
    (place,) = places(linked, "location_other.c:6")
    assert place.symbol == "helper" or place.symbol == "location_other"


def test_lines_of_libc_or_why_not() -> None:
    """With libc6-dbg the lines of a real library, with 1,700 line tables; else the reason."""
    elf = open_path(LIBC)
    debug = debug_files.find(elf)
    if debug is None:
        assert "no line numbers" in refusal(LIBC, "malloc.c:3300").message
        return
    numbers = [n for n in range(3000, 4000) if _has_code(f"malloc.c:{n}")]
    assert len(numbers) > 100


def _has_code(spec: str) -> bool:
    try:
        return all(place.boundary == "ok" for place in places(LIBC, spec))
    except LocationError:
        return False
