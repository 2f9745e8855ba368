# Writes a virtual machine's disks: ROOTFS with the files in FOLDER/up is the root disk, and a second
# disk is swap. FOLDER and ROOTFS are in the environment. The files have no blocks where nothing was
# written, so the sizes cost nothing.
set -eu
exec unshare --mount --propagation private sh -eu -c '
mount -t overlay overlay -o "lowerdir=$ROOTFS,upperdir=$FOLDER/up,workdir=$FOLDER/work" "$FOLDER/root"
mkfs.ext4 -q -F -E root_owner=0:0 -d "$FOLDER/root" "$FOLDER/disk.img" 20G
umount "$FOLDER/root"
truncate --size=256M "$FOLDER/swap.img"
chmod 600 "$FOLDER/swap.img"
mkswap --quiet "$FOLDER/swap.img"'
