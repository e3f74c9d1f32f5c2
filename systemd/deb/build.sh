#!/bin/sh
# Build dist/jouled_VERSION_ARCH.deb, which installs without a network. Needs dpkg-deb and the distribution's Python.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
root=$top/build/deb
python=/usr/bin/python3
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/pyproject.toml")
arch=$(dpkg --print-architecture)
minor=$("$python" -c 'import sys; print(sys.version_info.minor)')

rm -rf "$root"
"$here/../stage.sh" "$root" "$python"
install -d -m 755 "$root/DEBIAN"
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@MINOR@/$minor/" -e "s/@NEXT@/$((minor + 1))/" \
  "$here/control.in" > "$root/DEBIAN/control"
echo /etc/jouled/jouled.toml > "$root/DEBIAN/conffiles"
install -m 755 "$here/postinst" "$here/prerm" "$here/postrm" "$root/DEBIAN"
mkdir -p "$top/dist"
dpkg-deb --root-owner-group -Zxz -z1 --build "$root" "$top/dist/jouled_${version}_$arch.deb"
