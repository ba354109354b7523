"""The demo's target: an ordinary Python program that knows nothing of probes.

    /usr/bin/python3 demo_job.py FOLDER

Packs the machine's own text files with four threads, twice: as they are, then with their lines
sorted. Prints what it did and ends with a checksum of all that it wrote to FOLDER.
"""

import hashlib
import os
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = ("/usr/share/common-licenses", "/usr/lib/python3")


def inputs() -> list[Path]:
    """Regular files to pack, always in the same order."""
    found = [path for source in SOURCES for path in sorted(Path(source).rglob("*"))]
    text = [p for p in found if p.is_file() and p.suffix not in (".pyc", ".so") and "-" in p.name]
    library = sorted(Path(os.__file__).parent.glob("*.py"))
    return text[:40] + library[:160]


def pack(path: Path, folder: Path, *, sort: bool) -> int:
    """Write the file's compressed text to ``folder``; gives the size saved."""
    data = path.read_bytes()
    if sort:
        data = b"".join(sorted(data.splitlines(keepends=True)))
    packed = zlib.compress(data, 9)
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    (folder / f"{name}.{'sorted' if sort else 'plain'}").write_bytes(packed)
    return len(data) - len(packed)


def turn(folder: Path, *, sort: bool) -> None:
    """Pack all files once."""
    paths = inputs()
    os.environ["DEMO_TURN"] = "sorted" if sort else "plain"
    with ThreadPoolExecutor(4) as pool:
        saved = sum(pool.map(lambda path: pack(path, folder, sort=sort), paths))
    print(f"{len(paths)} files packed, {saved:,} bytes saved; my user id is {os.geteuid()}")
    sys.stdout.flush()


def main() -> None:
    """Two turns, the second when a line comes in; then the checksum of everything."""
    folder = Path(sys.argv[1])
    print("ready", flush=True)
    for sort in (False, True):
        sys.stdin.readline()
        turn(folder, sort=sort)
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    print(digest.hexdigest())


main()
