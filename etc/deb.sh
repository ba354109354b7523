#!/bin/sh
# Makes a Debian package, build/dprobed_VERSION_ARCH.deb: `make deb`.
#
# It is what `make install` puts under /usr, with its Python packages (Debian has too few of them),
# and the scripts of etc/debian. They are fetched and built once, into build/wheels; the rest needs
# no network. VERSION= makes another version than pyproject.toml says.
set -eu
umask 022
cd "$(dirname "$0")/.."
python=/usr/bin/python3
version=${VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}
architecture=$(dpkg --print-architecture)
wheels=build/wheels/$(cksum <pyproject.toml | tr ' ' -)-$("$python" -c 'import sys; print(sys.implementation.cache_tag)')
package=build/dprobed_${version}_$architecture.deb

# Nothing to do where it is newer than all that goes in.
if [ -e "$package" ] && [ -z "$(find dprobed clients/dprobe docs etc pyproject.toml README.md \
    -name __pycache__ -prune -o -newer "$package" -print -quit)" ]; then
    echo "$package"
    exit 0
fi
if [ ! -d "$wheels" ]; then
    echo "fetching and building Python packages into $wheels"
    rm -rf "$wheels.new" build/wheels-venv
    "$python" -m venv build/wheels-venv
    PYTHONWARNINGS=ignore build/wheels-venv/bin/python -m pip wheel --quiet --use-pep517 \
        --disable-pip-version-check --wheel-dir "$wheels.new" '.[metrics]' 'setuptools>=77'
    rm -rf "$wheels.new"/dprobed-* build/wheels-venv
    mv "$wheels.new" "$wheels"
fi

staged=build/deb
rm -rf "$staged"
mkdir -p "$staged/DEBIAN"
PIP_NO_INDEX=1 PIP_FIND_LINKS=$(pwd)/$wheels etc/install.sh /usr "$(pwd)/$staged" >/dev/null
# As Debian has them: changelog and licence beside the documentation, manual pages compressed.
doc=$staged/usr/share/doc/dprobed
{
    echo "dprobed: dynamic probes for Linux"
    echo "GPL-2.0-or-later, see /usr/share/common-licenses/GPL-2"
    echo
    echo "The Python packages below /usr/lib/dprobed have licences of their own: *.dist-info there."
} >"$doc/copyright"
gzip -9nr "$staged/usr/share/man"
# Configuration is the administrator's: what holds without one is in the examples.
mkdir -p "$staged/etc/dprobed/policies.d"
install -m 644 etc/dprobed.toml "$staged/etc/dprobed/dprobed.toml"
echo /etc/dprobed/dprobed.toml >"$staged/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 755 "etc/debian/$script" "$staged/DEBIAN/$script"
done
minor=$("$python" -c 'import sys; print(sys.version_info.minor)')
sed -e "s|@VERSION@|$version|" -e "s|@ARCHITECTURE@|$architecture|" \
    -e "s|@SIZE@|$(du -sk --exclude=DEBIAN "$staged" | cut -f1)|" \
    -e "s|@MINOR@|$minor|g" -e "s|@NEXT@|$((minor + 1))|" \
    etc/debian/control >"$staged/DEBIAN/control"
(cd "$staged" && find etc usr -type f -exec md5sum {} +) >"$staged/DEBIAN/md5sums"
dpkg-deb --root-owner-group -Zgzip -z1 --build "$staged" "$package" >/dev/null
rm -rf "$staged"
echo "$package"
