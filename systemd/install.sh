#!/bin/sh
# Put the daemon on this host: /opt/jouled, its unit, user, groups and udev rules. /etc/jouled/jouled.toml stays if it is there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
"$here/stage.sh" "" "${JOULED_PYTHON:-/usr/bin/python3}"
"$here/deb/postinst" configure
echo "jouled is installed; see: systemctl status jouled"
