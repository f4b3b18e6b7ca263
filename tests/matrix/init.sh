#!/bin/busybox sh
# shellcheck shell=dash
# The first process of a machine: puts together a root out of the host's, on which nothing that is
# written reaches the host, and runs the job in it. What it says goes to the port `out`; its last
# line is the job's status. The files in /run/out come back as an archive through the port `files`.

/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /mods/*; do
	insmod "$module" || echo "cannot load $module"
done

port() {
	for found in /sys/class/virtio-ports/*; do
		[ "$(cat "$found/name")" = "$1" ] && echo "/dev/${found##*/}"
	done
}

until [ -n "$(port out)" ] && [ -e /dev/vda ]; do usleep 20000; done
exec 3>"$(port out)" 4>"$(port files)"
ln -s "$(port compiler)" /dev/compiler
mkdir /host /rw /new
mount -t virtiofs -o ro host /host || poweroff -f
mount -t tmpfs -o size=50%,mode=755 rw /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work root /new || poweroff -f
mount -t tmpfs -o mode=755 run /new/run
mkdir -p /new/run/out /new/run/lock
for at in proc sys dev; do mount --move /$at /new/$at; done
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts devpts /new/dev/pts
mount -t tmpfs shm /new/dev/shm
mount -t tracefs tracefs /new/sys/kernel/tracing
mount -t debugfs debugfs /new/sys/kernel/debug
mount -t bpf bpf /new/sys/fs/bpf
mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
# A real disk, so that there is a page cache to look at. What the job needs may be where it goes.
checkout=$(sed -n 's/^cd //p' /job)
mkdir /checkout
mount --bind "/new$checkout" /checkout
mount -t ext4 /new/dev/vda /new/var/tmp
mkdir -p "/new$checkout"
mount --bind /checkout "/new$checkout"
for name in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
	[ -e "/new/dev/${name%%:*}" ] || ln -s "/proc/self/${name##*:}" "/new/dev/${name%%:*}"
done
cp /job /new/run/job
ifconfig lo up
hostname vm

echo ready >&3
chroot /new /bin/sh /run/job </new/dev/null >&3 2>&1
status=$?
tar -c -f - -C /new/run/out . >&4
echo "status $status" >&3
sync
poweroff -f
