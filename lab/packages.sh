#!/bin/sh
# The Debian or Ubuntu packages that the lab and the build need: installs those that are missing.
set -eu
packages="build-essential ca-certificates curl debian-archive-keyring debootstrap docker-registry
dnsmasq-base e2fsprogs file gzip iproute2 libseccomp-dev mount nftables pkg-config procps python3
python3-venv qemu-system-x86 skopeo
systemd-container tar tinyproxy-bin util-linux"
missing=
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing"
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
$as_root apt-get update -q
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -q -y --no-install-recommends $missing
