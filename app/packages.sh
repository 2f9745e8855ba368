#!/bin/sh
# The Debian or Ubuntu packages that the application's tests need: installs those that are missing.
set -eu
packages="redis-server chromium fonts-dejavu-core"
missing=
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing"
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
$as_root apt-get update -q
# The tests start their own servers on ports of their own, so none is started here.
RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive $as_root apt-get install -q -y --no-install-recommends $missing
