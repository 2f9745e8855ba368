#!/bin/sh
# The entry point of calico/node for a VXLAN cluster: register the node, give its
# tunnel device an address, then run Felix with the small watchers beside it.
# (The project's own image supervises these with runit and can run BGP as well.)
set -eu

calico-node -startup
NODENAME=$(cat /var/lib/calico/nodename)
FELIX_FELIXHOSTNAME=$NODENAME
FELIX_DATASTORETYPE=${DATASTORE_TYPE:-kubernetes}
export NODENAME FELIX_FELIXHOSTNAME FELIX_DATASTORETYPE
calico-node -allocate-tunnel-addrs -allocate-tunnel-addrs-run-once

# A watcher that ends is started again; the pause keeps a broken one from spinning.
keep() {
    while :; do
        calico-node "$1" || echo "calico-node $1 ended with status $?" >&2
        sleep 5
    done
}
keep -monitor-addresses &
keep -allocate-tunnel-addrs &
if [ "${CALICO_MANAGE_CNI:-true}" != false ]; then
    keep -monitor-token &
fi
exec calico-node -felix
