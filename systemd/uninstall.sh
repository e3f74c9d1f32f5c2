#!/bin/sh
# Take the daemon off this host. The journal in /var/lib/jouled and /etc/jouled stay.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
"$here/deb/prerm" remove
rm -rf /opt/jouled /var/cache/jouled
rm -f /usr/lib/systemd/system/jouled.service /usr/lib/sysusers.d/jouled.conf /usr/lib/udev/rules.d/60-jouled-*.rules /usr/bin/jouled
"$here/deb/postrm" remove
