#!/bin/sh
# Makes the Debian package of the kernel module's source, build/dprobes-dkms_VERSION_all.deb: `make deb`.
#
# It has what the module is built of, in /usr/src/dprobes-VERSION, where dkms(8) builds it for each
# kernel, and what the service needs to use it. VERSION= makes another version than pyproject.toml says.
set -eu
umask 022
cd "$(dirname "$0")/.."
version=${VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}
package=build/dprobes-dkms_${version}_all.deb

staged=build/deb-dkms
rm -rf "$staged"
source=$staged/usr/src/dprobes-$version
mkdir -p "$staged/DEBIAN" "$source"
(cd kernel_bridge && find . \( -name '*.[ch]' -o -name '*.rpn' -o -name Kbuild -o -name Makefile \) ! -name '*.mod.c' | sort) |
    while read -r file; do
        install -D -m 644 "kernel_bridge/$file" "$source/$file"
    done
sed "s|@VERSION@|$version|" kernel_bridge/dkms.conf >"$source/dkms.conf"
install -D -m 644 etc/systemd/kernel.conf "$staged/usr/lib/systemd/system/dprobed.service.d/kernel.conf"
doc=$staged/usr/share/doc/dprobes-dkms
install -D -m 644 kernel_bridge/README.md "$doc/README.md"
{
    echo "dprobed: dynamic probes for Linux, the kernel module"
    echo "GPL-2.0-or-later, see /usr/share/common-licenses/GPL-2"
} >"$doc/copyright"
for script in postinst prerm postrm; do
    sed "s|@VERSION@|$version|g" "etc/debian/dkms/$script" >"$staged/DEBIAN/$script"
    chmod 755 "$staged/DEBIAN/$script"
done
sed -e "s|@VERSION@|$version|" -e "s|@SIZE@|$(du -sk --exclude=DEBIAN "$staged" | cut -f1)|" \
    etc/debian/dkms/control >"$staged/DEBIAN/control"
(cd "$staged" && find usr -type f -exec md5sum {} +) >"$staged/DEBIAN/md5sums"
dpkg-deb --root-owner-group -Zgzip -z1 --build "$staged" "$package" >/dev/null
rm -rf "$staged"
echo "$package"
