# Boots a machine: NAME, FOLDER, ROOTFS and HOST are in the environment, and UNIFIED, which is 1 with
# cgroup v2 and 0 with v1; the machine's control groups are the arguments. This shell enters the
# groups, mounts the disk in its own mount namespace, and becomes the machine. With cgroup v2
# systemd-nspawn makes the group the root of the machine's view; with v1 this shell has to.
# A machine loads kernel modules from this machine's, if it has any, and sees no swap of it.
set -eu
for group; do echo $$ >"$group/cgroup.procs"; done
MODULES=
[ ! -d "/lib/modules/$(uname -r)" ] || MODULES=--bind-ro=/lib/modules
export MODULES
own=--cgroup
[ "$UNIFIED" = 0 ] || own=
exec unshare $own --mount --propagation private sh -eu -c '
if [ "$UNIFIED" = 0 ]; then
  umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  for c in cpu cpuacct cpuset memory devices freezer blkio pids; do
    mkdir /sys/fs/cgroup/$c
    mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c
  done
  mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
  mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
  mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
fi
mount -t overlay overlay -o "lowerdir=$ROOTFS,upperdir=$FOLDER/up,workdir=$FOLDER/work" "$FOLDER/root"
exec env -i PATH="$PATH" SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="$UNIFIED" SYSTEMD_NSPAWN_API_VFS_WRITABLE=1 \
  systemd-nspawn -D "$FOLDER/root" -M "$NAME" --hostname="$HOST" \
  --register=no --keep-unit --boot --capability=all \
  --system-call-filter="@keyring bpf mount @mount add_key keyctl perf_event_open @privileged @raw-io @reboot @module @clock @swap @obsolete" \
  --network-namespace-path="/run/netns/$NAME" --resolv-conf=off --timezone=off --link-journal=no \
  --bind="$FOLDER/containerd:/var/lib/containerd" --bind="$FOLDER/kubelet:/var/lib/kubelet" \
  --bind="$FOLDER/etcd:/var/lib/etcd" --bind=/dev/kmsg --bind=/dev/fuse \
  --bind-ro=/etc/no-swap:/proc/swaps $MODULES \
  --console=read-only systemd.unified_cgroup_hierarchy="$UNIFIED"'
