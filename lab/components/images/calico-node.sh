#!/bin/sh
# The entry point of calico/node for a VXLAN cluster: register the node, give its
# tunnel device an address, then run Felix and the small watchers.
# (The project's own image supervises these with runit and can run BGP as well.)
set -eu

calico-node -startup
NODENAME=$(cat /var/lib/calico/nodename)
FELIX_FELIXHOSTNAME=$NODENAME
FELIX_DATASTORETYPE=${DATASTORE_TYPE:-kubernetes}
export NODENAME FELIX_FELIXHOSTNAME FELIX_DATASTORETYPE
calico-node -allocate-tunnel-addrs -allocate-tunnel-addrs-run-once

# A process that ends is started again, and the container goes on, as with runit: Felix ends
# whenever its configuration changes. The pause keeps a broken one from spinning.
keep() {
    while :; do
        calico-node "$1" || echo "calico-node $1 ended with status $?" >&2
        sleep "$2"
    done
}
# A process with id 1 that has no handler ignores the signal by which a container is stopped.
trap 'exit 0' TERM
keep -monitor-addresses 5 &
keep -allocate-tunnel-addrs 5 &
if [ "${CALICO_MANAGE_CNI:-true}" != false ]; then
    keep -monitor-token 5 &
fi
keep -felix 1 &
wait
