#!/bin/sh
# Lay out an installation below a folder: stage.sh ROOT [PYTHON]. ROOT is empty for this host itself.
# /opt/jouled is a virtual environment of the distribution's Python with everything locked in it.
set -eu
root=$1
python=${2:-/usr/bin/python3}
here=$(cd "$(dirname "$0")" && pwd)
uv=$here/../.venv/bin/uv
prefix=$root/opt/jouled

"$uv" venv --quiet --clear --relocatable --no-project --python "$python" "$prefix"
UV_PROJECT_ENVIRONMENT=$prefix "$uv" sync --quiet --project "$here/.." --frozen --no-editable --link-mode copy
# What is read-only while the daemon runs is compiled now.
"$prefix/bin/python" -m compileall -q --invalidation-mode unchecked-hash "$prefix/lib" || true

install -D -m 644 "$here/jouled.service" "$root/usr/lib/systemd/system/jouled.service"
install -D -m 644 "$here/jouled.sysusers" "$root/usr/lib/sysusers.d/jouled.conf"
for rules in "$here"/*.rules; do
  install -D -m 644 "$rules" "$root/usr/lib/udev/rules.d/$(basename "$rules")"
done
for drop_in in "$here"/drop-ins/*.conf; do
  install -D -m 644 "$drop_in" "$root/opt/jouled/share/drop-ins/$(basename "$drop_in")"
done
install -d -m 755 "$root/usr/bin"
ln -sf /opt/jouled/bin/jouled "$root/usr/bin/jouled"
# An operator's own configuration stays.
[ -e "$root/etc/jouled/jouled.toml" ] || install -D -m 644 "$here/jouled.toml" "$root/etc/jouled/jouled.toml"
