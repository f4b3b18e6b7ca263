#!/bin/sh
# A libvirtd with namespaces of its own (network, mounts, processes) which lasts until stdin ends. The
# host does not change: bridge, firewall, disks and sockets exist in there alone, all files in memory,
# and the kernel removes everything with the first process, however it ends.
#
# usage: libvirt.sh    (as root; says "ready", and then stdin is waited for)

set -eu

if [ "${1:-}" != inside ]; then
	exec unshare --net --mount --pid --fork --kill-child --mount-proc -- "$0" inside
fi

configure() {
	mount -t tmpfs tmpfs /etc/libvirt
	mkdir -p /etc/libvirt/qemu/networks
	# No other user, control group or sandbox: the namespaces are the fence.
	cat >/etc/libvirt/qemu.conf <<-CONF
		user = "root"
		group = "root"
		dynamic_ownership = 0
		remember_owner = 0
		security_driver = "none"
		namespaces = []
		cgroup_controllers = []
		seccomp_sandbox = 0
		stdio_handler = "file"
	CONF
	printf 'auth_unix_ro = "none"\nauth_unix_rw = "none"\nunix_sock_group = "root"\n' \
		>/etc/libvirt/libvirtd.conf
}

mount --make-rprivate /
mount -t sysfs sysfs /sys # the interfaces of this namespace, and no control groups
configure
for folder in /run /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
	mount -t tmpfs -o mode=755 tmpfs "$folder"
done
mkdir -p /run/lock /run/vagrant /var/lib/libvirt/images
ip link set lo up
libvirtd >&2 &
tries=600
until [ -S /run/libvirt/libvirt-sock ]; do
	tries=$((tries - 1))
	[ "$tries" -gt 0 ] && kill -0 $! || exit 1
	sleep 0.1
done
echo ready
cat >/dev/null # not by exec: this shell buries what its children leave
exit
