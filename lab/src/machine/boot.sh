# Boots a machine: NAME, FOLDER, ROOTFS and HOST are in the environment, the machine's control
# groups are the arguments. This shell enters the groups, makes them the root of its view, mounts
# the disk in its own mount namespace, and becomes the machine.
set -eu
for group; do echo $$ >"$group/cgroup.procs"; done
exec unshare --cgroup --mount --propagation private sh -eu -c '
umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for c in cpu cpuacct cpuset memory devices freezer blkio pids; do
  mkdir /sys/fs/cgroup/$c
  mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c
done
mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
mount -t overlay overlay -o "lowerdir=$ROOTFS,upperdir=$FOLDER/up,workdir=$FOLDER/work" "$FOLDER/root"
exec env -i PATH="$PATH" SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=0 SYSTEMD_NSPAWN_API_VFS_WRITABLE=1 \
  systemd-nspawn -D "$FOLDER/root" -M "$NAME" --hostname="$HOST" \
  --register=no --keep-unit --boot --capability=all \
  --system-call-filter="@keyring bpf mount @mount add_key keyctl perf_event_open @privileged @raw-io @reboot @module @clock @swap @obsolete" \
  --network-namespace-path="/run/netns/$NAME" --resolv-conf=off --timezone=off --link-journal=no \
  --bind="$FOLDER/containerd:/var/lib/containerd" --bind="$FOLDER/kubelet:/var/lib/kubelet" \
  --bind="$FOLDER/etcd:/var/lib/etcd" --bind=/dev/kmsg --bind=/dev/fuse \
  --console=read-only systemd.unified_cgroup_hierarchy=0'
