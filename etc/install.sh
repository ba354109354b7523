#!/bin/sh
# Installs dprobed for all users: `make install PREFIX=/usr/local DESTDIR=`.
#
#   etc/install.sh PREFIX [DESTDIR]
#
# A virtual environment of its own in PREFIX/lib/dprobed, commands in PREFIX/bin, manual pages,
# completion and examples in PREFIX/share, units of systemd in PREFIX/lib. DESTDIR stands before all of it, for who makes packages.
set -eu
umask 022
cd "$(dirname "$0")/.."
prefix=${1:?usage: etc/install.sh PREFIX [DESTDIR]}
root=${2:-}
case $prefix in
/*) ;;
*)
    echo "PREFIX is a path from the root on, not $prefix" >&2
    exit 2
    ;;
esac

# Whether every user may execute a file: read and enter each folder on its way.
for_all() {
    path=$(readlink -f "$1") || return 1
    [ -n "$(find "$path" -maxdepth 0 -perm -005)" ] || return 1
    while [ "$path" != / ]; do
        path=$(dirname "$path")
        [ -n "$(find "$path" -maxdepth 0 -perm -001)" ] || return 1
    done
}

# Prints the first Python that is new enough, can make a virtual environment and is everybody's.
find_python() {
    for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        found=$(command -v "$candidate") || continue
        for_all "$found" || continue
        if "$found" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
            >/dev/null 2>&1; then
            echo "$found"
            return
        fi
    done
    return 1
}

base=$(find_python) || {
    echo "make install needs Python 3.11 or later, with its venv module, that all users may execute" >&2
    echo "install it first, as root:  apt-get install python3 python3-venv" >&2
    exit 1
}
home=$prefix/lib/dprobed
staged=$root$home
echo "installing dprobed into $root$prefix, with $base"
"$base" -m venv --clear "$staged"
# Else modules that are no longer ours are taken from what was built earlier.
rm -rf build/lib build/bdist.*
PYTHONWARNINGS=ignore "$staged/bin/python" -m pip install --quiet --use-pep517 --disable-pip-version-check \
    --no-compile '.[metrics]'
# Nobody activates it, and pip has done its work. What it made says where it is: without DESTDIR.
rm -f "$staged"/bin/[Aa]ctivate* "$staged"/bin/pip*
# What the environment says to Python (PYTHONPATH, PYTHONHOME) is for the programs that are probed.
for script in dprobe dprobed; do
    sed -i "1s|.*|#!$home/bin/python -I|" "$staged/bin/$script"
done
# Those who run it may not write there.
"$staged/bin/python" -m compileall -q ${root:+-s "$root"} "$staged/lib"

share=$root$prefix/share
mkdir -p "$root$prefix/bin" \
    "$share/bash-completion/completions" "$share/zsh/site-functions" \
    "$share/fish/vendor_completions.d" "$share/doc/dprobed"
ln -sf ../lib/dprobed/bin/dprobe ../lib/dprobed/bin/dprobed "$root$prefix/bin/"
for section in 1 5 7 8; do
    mkdir -p "$share/man/man$section"
    install -m 644 docs/man/*.$section "$share/man/man$section/"
done
dprobe() { "$staged/bin/python" "$staged/bin/dprobe" "$@"; }
dprobe completion bash >"$share/bash-completion/completions/dprobe"
dprobe completion zsh >"$share/zsh/site-functions/_dprobe"
dprobe completion fish >"$share/fish/vendor_completions.d/dprobe.fish"
install -m 644 README.md docs/*.md "$share/doc/dprobed/"
lib=$root$prefix/lib
mkdir -p "$lib/systemd/system" "$lib/systemd/user" "$lib/systemd/catalog" "$lib/sysusers.d" \
    "$lib/tmpfiles.d"
for unit in dprobed.service dprobed.socket user/dprobed.service user/dprobed.socket; do
    case $unit in
    user/*) place=$lib/systemd/$unit ;;
    *) place=$lib/systemd/system/$unit ;;
    esac
    sed "s|@PREFIX@|$prefix|" "etc/systemd/$unit" >"$place"
    chmod 644 "$place"
done
install -m 644 etc/systemd/dprobed.catalog "$lib/systemd/catalog/"
install -m 644 etc/systemd/sysusers.conf "$lib/sysusers.d/dprobed.conf"
install -m 644 etc/systemd/tmpfiles.conf "$lib/tmpfiles.d/dprobed.conf"
cp -R etc/examples etc/policies etc/prometheus etc/editor "$share/doc/dprobed/"
chmod -R a+rX "$staged" "$share/doc/dprobed"
if [ -z "$root" ] && [ "$(id -u)" -eq 0 ] && [ -d /run/systemd/system ]; then
    echo "as a service:  systemd-sysusers dprobed.conf && journalctl --update-catalog &&"
    echo "    systemctl daemon-reload && systemctl enable --now dprobed.socket"
fi
# What only the owner of this folder may enter, nobody else can run.
if [ -z "$root" ] && ! for_all "$home/bin/dprobe"; then
    echo "other users may not enter $home: choose another PREFIX for them" >&2
fi
