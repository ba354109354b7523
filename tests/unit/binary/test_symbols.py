"""Names of code and data, in every kind of file, compared with binutils."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dprobed.binary.errors import LocationError
from dprobed.binary.numbers import number_of
from dprobed.binary.places import (
    NO_OFFSET,
    Place,
    list_places,
    place_at,
    resolve,
    resolve_data,
)
from dprobed.binary.suggest import similar
from dprobed.binary.symbols import STT_FUNC
from tests.unit.location_files import (
    FOLDER,
    LIBC,
    address,
    library,
    nm,
    objcopy,
    open_path,
    program,
    run,
)

KINDS = {
    "pie": (),
    "exec": ("-no-pie",),
    "static": ("-static", "-no-pie"),
    "static-pie": ("-static-pie",),
}


def code(path: Path | str, spec: str) -> Place:
    (place,) = resolve(open_path(str(path)), spec)
    return place


def data(path: Path | str, spec: str) -> Place:
    return resolve_data(open_path(str(path)), spec)


def refusal(path: Path | str, spec: str) -> LocationError:
    with pytest.raises(LocationError) as caught:
        resolve(open_path(str(path)), spec)
    return caught.value


@pytest.fixture(params=KINDS)
def any_program(request: pytest.FixtureRequest) -> Path:
    return program(*KINDS[request.param])


def test_kind_and_build_id() -> None:
    for flags, kind in zip(KINDS.values(), ("pie", "exec", "static", "static"), strict=True):
        elf = open_path(str(program(*flags)))
        assert elf.kind == kind
        assert elf.build_id is not None
        assert elf.build_id in run("readelf", "-n", program(*flags))
    assert open_path(str(library())).kind == "dyn"
    assert open_path(str(library())).soname == "libversions.so.1"
    assert open_path(LIBC).kind == "dyn"


@pytest.mark.parametrize("name", ["strong_function", "weak_function", "alias_function", "main"])
def test_symbol(any_program: Path, name: str) -> None:
    place = code(any_program, name)
    assert place.vaddr == address(any_program, name)
    assert (place.name, place.symbol, place.kind) == (f"{name}+0x0", name, "code")
    assert (place.boundary, place.spec) == ("ok", name)
    lines = run("readelf", "-SW", any_program).replace("[ ", "[").splitlines()
    (text,) = [parts for parts in map(str.split, lines) if parts[1:2] == [".text"]]
    assert place.vaddr - place.file_offset == int(text[3], 16) - int(text[4], 16)


def test_offsets_from_a_symbol(any_program: Path) -> None:
    start = code(any_program, "strong_function")
    # weak_function lies right before it: sizes are known.
    weak = code(any_program, "weak_function")
    distance = start.vaddr - weak.vaddr
    for spec in (f"weak_function+{distance}", f"weak_function + {distance:#x}"):
        place = code(any_program, spec)
        assert place.file_offset == start.file_offset
        assert place.name == f"weak_function+{distance:#x}"
    back = code(any_program, f"strong_function-{distance:#o}".replace("0o", "0"))
    assert (back.vaddr, back.name) == (weak.vaddr, f"strong_function-{distance:#x}")
    assert back.symbol_offset == -distance


def test_file_offset_is_named_after_its_symbol(any_program: Path) -> None:
    want = code(any_program, "strong_function")
    for spec in (str(want.file_offset), hex(want.file_offset)):
        place = code(any_program, spec)
        assert (place.file_offset, place.vaddr) == (want.file_offset, want.vaddr)
        assert place.name in ("strong_function+0x0", "alias_function+0x0")
        assert place.boundary == "ok"


def test_local_symbols_of_one_name_are_ambiguous(any_program: Path) -> None:
    error = refusal(any_program, "helper")
    assert "helper is ambiguous: 2 symbols" in error.message
    addresses = sorted(value for value, _, name in nm(any_program) if name == "helper")
    main, other = error.candidates
    assert main.startswith(f"location_main.c:helper at {addresses[0]:#x}")
    assert other.startswith(f"location_other.c:helper at {addresses[1]:#x}")
    for spec, want in zip(("location_main.c", "location_other.c"), addresses, strict=True):
        place = code(any_program, f"{spec}:helper")
        assert (place.vaddr, place.source) == (want, spec)
        assert place.spec == f"{spec}:helper"
    assert code(any_program, "location_other.c:helper+0").vaddr == addresses[1]
    assert "helper of source file nowhere.c" in refusal(any_program, "nowhere.c:helper").message


def test_local_symbols_in_files_of_one_name(tmp_path: Path) -> None:
    """Nothing but the file offset tells them apart."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.c").write_text(
            "__attribute__((noinline)) static int twin(int n) { return n * 3 + 7; }\n"
            f"int {folder}(int n) {{ return twin(n) + twin(n + 1); }}\n"
        )
    (tmp_path / "main.c").write_text(
        "int one(int); int two(int);\nint main(int n, char **v) { return one(n) + two(n) + !v; }\n"
    )
    sources = [tmp_path / name for name in ("main.c", "one/same.c", "two/same.c")]
    run("gcc", "-O1", *sources, "-o", tmp_path / "both")
    wanted = sorted(value for value, _, name in nm(tmp_path / "both") if name == "twin")
    for spec in ("twin", "same.c:twin"):
        error = refusal(tmp_path / "both", spec)
        assert "twin is ambiguous: 2 symbols" in error.message
        offsets = [candidate.split()[0] for candidate in error.candidates]
        assert [code(tmp_path / "both", offset).vaddr for offset in offsets] == wanted
        assert all("same.c:twin" in candidate for candidate in error.candidates)
    for place in list_places(open_path(str(tmp_path / "both")), "twin"):
        assert code(tmp_path / "both", place.spec).vaddr == place.vaddr


def test_names_that_would_upset_a_terminal(tmp_path: Path) -> None:
    source = tmp_path / "odd.c"
    source.write_text("int harmless_name(void) { return 1; }\nint main(void) { return 0; }\n")
    run("gcc", source, "-o", tmp_path / "odd")
    raw = (tmp_path / "odd").read_bytes().replace(b"harmless_name\0", b"\x1b[31m\nredname\0")
    (tmp_path / "odd").write_bytes(raw)
    places = list(list_places(open_path(str(tmp_path / "odd")), "*redname"))
    assert [place.symbol for place in places] == ["\\x1b[31m\\nredname"]
    for place in places:
        assert code(tmp_path / "odd", place.spec).vaddr == place.vaddr


def test_label_without_size(any_program: Path) -> None:
    assert code(any_program, "bare_label").size == 0
    assert code(any_program, "bare_label+5").boundary == "ok"
    assert code(any_program, "bare_label+6").boundary == "ok"
    # After its ret nothing says whether code or data follows.
    assert code(any_program, "bare_label+8").boundary == "unknown"
    assert "inside an instruction (mov eax" in refusal(any_program, "bare_label+2").message


def test_ifunc(any_program: Path) -> None:
    place = code(any_program, "chosen_at_start")
    assert (place.kind, place.vaddr) == ("ifunc", address(any_program, "chosen_at_start"))
    later = code(any_program, "chosen_at_start+4")
    assert (later.vaddr, later.file_offset) == (place.vaddr, place.file_offset)
    assert (later.symbol_offset, later.name) == (4, "chosen_at_start+0x4")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("global_data", "global_data is data, not code"),
        ("constant_data", "constant_data is data, not code"),
        ("thread_data", "thread-local"),
        ("strong_funtion", "no symbol strong_funtion"),
        ("strong_function+1", "is inside an instruction"),
        ("strong_function+0x7fffffff", "not in an executable segment"),
        ("strong_function-0xffffffffffffffffff", "not in an executable segment"),
        ("main+", "no symbol main+"),
        ("", "an empty place"),
        ("0x0", "not in an executable segment"),
        ("99999999999999999999999", "not in an executable segment"),
        ("089", "not a number"),
        ("9" * 5000, "not a number"),
        ("main\0", "is not a place"),
        ("main\nmain", "is not a place"),
        ("\ud800", "is not a place"),
        ("main+0x", "no symbol main+0x"),
        ("a.c:" + "9" * 5000, "not a number"),
        ("main@VER_1", "no main of version VER_1"),
        ("no_such_file.c:1", "no source file no_such_file.c"),
    ],
)
def test_refused(any_program: Path, spec: str, reason: str) -> None:
    error = refusal(any_program, spec)
    assert reason in error.message
    assert "\n" not in error.message


def test_unknown_symbols_get_suggestions() -> None:
    assert refusal(program(), "strong_funtion").candidates == ("strong_function",)
    assert "mallok" in refusal(LIBC, "mallok").message
    assert "malloc" in refusal(LIBC, "mallok").candidates
    imported = refusal(program(), "printf")
    assert "takes it from a library" in imported.message
    assert "name the library" in imported.hint


def test_functions_of_c_plus_plus_are_suggested_by_their_last_name() -> None:
    names = [
        "_ZN4shop4Cart3addERKSs",
        "_RNvCs_4shop3add",
        "_ZN4shop4Cart6addAllEv",
        "other_3add_x",
        "odd",
    ]
    assert similar("add", names) == ["_RNvCs_4shop3add", "_ZN4shop4Cart3addERKSs"]
    assert similar("Cart", names) == ["_ZN4shop4Cart3addERKSs", "_ZN4shop4Cart6addAllEv"]


def test_address_instead_of_file_offset_is_explained() -> None:
    path = program("-no-pie")
    want = code(path, "main")
    error = refusal(path, hex(want.vaddr))
    assert f"its file offset is {want.file_offset:#x}" in error.hint


def test_data(any_program: Path) -> None:
    place = data(any_program, "global_data")
    assert (place.kind, place.size) == ("data", 4)
    assert place.vaddr == address(any_program, "global_data")
    assert open_path(str(any_program)).read(place.file_offset, 4) == b"\7\0\0\0"
    assert data(any_program, "global_data:2").size == 2
    zeroed = data(any_program, "zeroed_data")
    assert (zeroed.file_offset, zeroed.vaddr) == (NO_OFFSET, address(any_program, "zeroed_data"))
    third = data(any_program, "location_main.c:static_data+8")
    assert (third.name, third.size) == ("static_data+0x8", 8)
    assert open_path(str(any_program)).read(third.file_offset, 4) == b"\3\0\0\0"
    assert data(any_program, "location_main.c:static_data+8:0x4").size == 4
    assert data(any_program, "main:1").kind == "code"
    for spec, reason in (
        ("static_data", "static_data is ambiguous"),
        ("thread_data", "thread_data is thread-local"),
        ("globl_data", "no symbol globl_data"),
    ):
        with pytest.raises(LocationError, match=reason):
            data(any_program, spec)


def test_versions() -> None:
    old, new, kept = (
        next(v for v, _, name in nm(library(), "-D") if name == wanted)
        for wanted in ("answer@VER_1", "answer@@VER_2", "only_old@VER_1")
    )
    for path in (library(), objcopy(library(), "libstripped.so", "--strip-all")):
        assert code(path, "answer").vaddr == new
        assert code(path, "answer@VER_2").vaddr == new
        assert code(path, "answer@@VER_2").vaddr == new
        place = code(path, "answer@VER_1")
        assert (place.vaddr, place.name) == (old, "answer@VER_1+0x0")
        assert place.spec == "answer@VER_1"
        assert code(path, "only_old").vaddr == kept
        error = refusal(path, "answer@VER_3")
        assert len(error.candidates) == 2


def test_stripped() -> None:
    path = objcopy(program("-rdynamic"), "stripped", "--strip-all")
    assert code(path, "strong_function").vaddr == address(path, "strong_function", "-D")
    assert "install its debug symbols" in refusal(path, "location_main.c:helper").hint
    # Unwind entries still tell functions apart, so inner places can be judged.
    want = code(program("-rdynamic"), "location_main.c:helper")
    place = code(path, hex(want.file_offset))
    assert (place.vaddr, place.boundary) == (want.vaddr, "ok")
    assert "inside an instruction" in refusal(path, hex(want.file_offset + 1)).message


def test_without_section_headers() -> None:
    path = FOLDER / "sectionless"
    raw = bytearray(program("-rdynamic").read_bytes())
    raw[40:48] = bytes(8)  # e_shoff
    raw[60:64] = bytes(4)  # e_shnum, e_shstrndx
    path.write_bytes(raw)
    assert code(path, "strong_function").vaddr == address(program("-rdynamic"), "strong_function")
    assert data(path, "global_data").size == 4
    versions = FOLDER / "sectionless.so"
    raw = bytearray(library().read_bytes())
    raw[40:48] = bytes(8)
    raw[60:64] = bytes(4)
    versions.write_bytes(raw)
    assert code(versions, "answer@VER_1").vaddr == code(library(), "answer@VER_1").vaddr
    assert code(versions, "answer").vaddr == code(library(), "answer").vaddr


def test_prelinked_load_address() -> None:
    path = library("libprelinked.so", "-Wl,-Ttext-segment=0x41000000")
    place = code(path, "plain")
    assert place.vaddr == address(path, "plain")
    assert place.file_offset == place.vaddr - 0x41000000


def test_several_executable_segments() -> None:
    path = program("-no-pie", "-Wl,--section-start=far_code=0x900000")
    assert sum(segment.executable for segment in open_path(str(path)).segments) == 2
    for name in ("far_function", "main"):
        place = code(path, name)
        assert place.vaddr == address(path, name)
        assert place_at(open_path(str(path)), place.vaddr).file_offset == place.file_offset
    assert code(path, "far_function").vaddr >= 0x900000


def test_code_and_data_in_one_segment() -> None:
    path = program("-Wl,-z,noseparate-code")
    elf = open_path(str(path))
    assert code(path, "main").vaddr == address(path, "main")
    assert data(path, "constant_data").kind == "data"
    offset = data(path, "constant_data").file_offset
    assert elf.code_segment(offset) is not None
    assert "is in section .rodata, which is not code" in refusal(path, hex(offset)).message


def test_every_listed_place_resolves_to_itself(any_program: Path) -> None:
    elf = open_path(str(any_program))
    places = list(list_places(elf))
    assert {"main", "strong_function", "bare_label"} <= {place.symbol for place in places}
    code = [place for place in places if place.kind != "data"]
    variables = places[len(code) :]
    for some in (code, variables):
        assert sorted(place.vaddr for place in some) == [place.vaddr for place in some]
    assert {place.kind for place in variables} == {"data"}
    for place in code[:400]:
        (again,) = resolve(elf, place.spec)
        assert (again.vaddr, again.kind) == (place.vaddr, place.kind)
    for place in variables[:400]:
        again = resolve_data(elf, place.spec)
        assert (again.vaddr, again.size) == (place.vaddr, place.size)
    named = {place.symbol for place in list_places(elf, "*_function")}
    assert {"weak_function", "far_function"} <= named
    assert all(name.endswith("_function") for name in named)


@pytest.mark.parametrize("path", [LIBC, "python3", "bash", "gdb"])
def test_debian_binaries_against_nm(path: str) -> None:
    found = (
        path if "/" in path else str(Path(shutil.which(path, path="/usr/bin") or path).resolve())
    )
    elf = open_path(found)
    wanted: dict[str, set[int]] = {}
    for value, letter, name in nm(found, "-D"):
        if letter in "TWi" and ("@" not in name or "@@" in name) and name != "data_start":
            wanted.setdefault(name.partition("@")[0], set()).add(value)
    assert wanted
    for name, values in wanted.items():
        (place,) = resolve(elf, name)
        assert place.vaddr in values
        assert place.boundary == "ok"


def test_old_versions_of_libc() -> None:
    elf = open_path(LIBC)
    for value, letter, name in nm(LIBC, "-D"):
        if letter in "TWi" and "@" in name:
            (place,) = resolve(elf, name)
            assert place.vaddr == value


def test_symbols_are_those_of_readelf(any_program: Path) -> None:
    wanted = {
        (int(parts[1], 16), parts[7].partition("@")[0])
        for parts in map(str.split, run("readelf", "-sW", any_program).splitlines())
        if len(parts) == 8 and parts[3] == "FUNC" and parts[6] != "UND"
    }
    table = open_path(str(any_program)).symbols
    found = {
        (symbol.value, symbol.name)
        for symbol in map(table.__getitem__, range(len(table)))
        if symbol.type == STT_FUNC
    }
    assert found == wanted


@pytest.mark.parametrize(("text", "number"), [("0x1F", 31), ("017", 15), ("0", 0), ("42", 42)])
def test_numbers_are_as_in_c(text: str, number: int) -> None:
    assert number_of(text) == number
