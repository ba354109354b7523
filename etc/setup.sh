#!/bin/sh
# Makes a machine ready for `make GOAL`: Debian packages, the virtual environment, dprobed in it.
#
#   etc/setup.sh demo | hunt | test | bench | install | deb
#
# Does nothing, in a few milliseconds, where all is there. What is missing is looked for by what it
# gives (a command, a header), not by package name, so that other distributions work as well.
set -eu
cd "$(dirname "$0")/.."
goal=${1:?usage: etc/setup.sh GOAL}

missing=
need() { # need PACKAGE TEST...: the package is missing unless the test command succeeds
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

# Whether the debug information of libc is there, by which debuggers find threads and their variables.
libc_debug() {
    libc=$(gcc -print-file-name=libc.so.6)
    build=$(readelf -n "$libc" | sed -n 's/.*Build ID: \(..\)/\1\//p')
    [ -n "$build" ] && [ -e "/usr/lib/debug/.build-id/$build.debug" ]
}

# Prints the first Python that can make a virtual environment and is new enough.
find_python() {
    for candidate in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
            >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

venv=.venv
python=$venv/bin/python
stamp=$venv/.installed
# A virtual environment does not survive a move, and must follow what pyproject.toml asks for.
key="$(pwd)
$(cksum <pyproject.toml)"

installed() { [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; }

# systemd-python is built here, from its source: for the virtual environment, and for the Python that
# `make install` and `make deb` take.
has_headers() {
    "$1" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
}
builds=
case $goal in
install | deb | test) builds=/usr/bin/python3 ;;
*) installed || builds=$(find_python) || builds=python3 ;;
esac
if [ -n "$builds" ]; then
    need python3-venv "$builds" -c 'import ensurepip'
    need python3-dev has_headers "$builds"
    need gcc command -v gcc
    need libc6-dev test -e /usr/include/stdio.h
    need pkg-config command -v pkg-config
    need libsystemd-dev pkg-config --exists libsystemd
fi
case $goal in
install | deb) ;;
*) installed || need python3-venv find_python ;;
esac
case $goal in
demo | install | deb) ;;
*)
    need gcc command -v gcc
    need libc6-dev test -e /usr/include/stdio.h
    need gdb command -v gdb
    ;;
esac
case $goal in
demo | hunt | install | deb) ;;
*)
    need g++ command -v g++
    need libc6-dbg libc_debug
    need groff-base command -v groff
    need elfutils command -v eu-stack
    need zstd command -v zstd
    need systemtap-sdt-dev test -e /usr/include/x86_64-linux-gnu/sys/sdt.h
    need lldb command -v lldb
    need babeltrace2 command -v babeltrace2
    need python3-bt2 /usr/bin/python3 -c 'import bt2'
    need systemd test -x /lib/systemd/systemd-journald
    need systemd-container command -v systemd-nspawn
    need mmdebstrap command -v mmdebstrap
    need golang-go command -v go
    need strace command -v strace
    need bpftrace command -v bpftrace
    need libjemalloc2 test -e /usr/lib/x86_64-linux-gnu/libjemalloc.so.2
    need zsh command -v zsh
    need fish command -v fish
    need btrfs-progs command -v mkfs.btrfs
    need nodejs command -v node
    need nginx test -x /usr/sbin/nginx
    need redis-server test -x /usr/bin/redis-server
    need postgresql sh -c 'ls /usr/lib/postgresql/*/bin/postgres'
    need qemu-system-x86 command -v qemu-system-x86_64
    need linux-image-cloud-amd64 sh -c 'ls /boot/vmlinuz-*-cloud-amd64'
    need sparse command -v sparse
    need dkms command -v dkms
    need linux-headers-cloud-amd64 sh -c 'ls -d /lib/modules/*-cloud-amd64/build/Makefile'
    ;;
esac
# The programs that the demo and the tests probe.
need python3 test -x /usr/bin/python3

if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "make $goal needs these packages:$missing" >&2
        echo "install them first, as root:  apt-get install$missing" >&2
        exit 1
    fi
    echo "installing Debian packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of words
    apt-get install -qq -y --no-install-recommends $missing >/dev/null
fi

case $goal in
install | deb) exit 0 ;;
esac
installed && exit 0
base=$(find_python) || {
    echo "make $goal needs Python 3.11 or later, with its venv module; none was found" >&2
    exit 1
}
# An environment that was made elsewhere, or whose Python went away, is made anew.
if [ ! -x "$python" ] || { [ -e "$stamp" ] && [ "$(head -n 1 "$stamp")" != "$(pwd)" ]; }; then
    echo "making a virtual environment in $venv with $base"
    "$base" -m venv --clear "$venv"
fi
echo "installing dprobed and its development tools into $venv"
# The build's own warnings are about what we chose (an editable installation).
PYTHONWARNINGS=ignore "$python" -m pip install --quiet --use-pep517 --disable-pip-version-check --editable '.[dev]'
# As pip does with what it copies: without it every start of a program compiles 1.5 times as long as
# it runs where nobody may write next to the modules (PYTHONDONTWRITEBYTECODE, another user).
"$python" -m compileall -q dprobed clients
echo "$key" >"$stamp"
