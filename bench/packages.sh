#!/bin/sh
# The load generator: the one Debian or Ubuntu package that the load test needs beyond the lab's.
set -eu
dpkg-query -W -f='${Status}' hey 2>/dev/null | grep -q 'ok installed' && exit 0
echo "installing: hey"
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
$as_root apt-get update -q
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -q -y --no-install-recommends hey
