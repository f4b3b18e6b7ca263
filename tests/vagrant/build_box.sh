#!/bin/sh
# Builds a Vagrant box for libvirt: Debian 12 with what memtap needs, so that a machine made of it is
# ready without a network. No disk image is mounted: mke2fs fills the file system, and GRUB is written
# where it would have installed itself.
#
# usage: build_box.sh BOX REQUIREMENTS    (as root; pip of the Python in $PYTHON)

set -eu

box=$1
requirements=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
mib=3072
first=2048 # sector where the file system begins

# What is mounted and started while packages are installed stays in namespaces, so that it ends with
# them, and so that what is removed here holds no other file system.
if [ "${3:-}" != inside ]; then
	work=$(mktemp -d "$box.XXXXXX")
	trap 'rm -rf --one-file-system "$work"' EXIT
	trap 'exit 1' HUP INT TERM
	unshare --mount --pid --fork --kill-child --mount-proc -- \
		"$0" "$box" "$requirements" inside "$work"
	exit
fi
work=$4
root=$work/root

# A kernel, what Vagrant asks of a guest (ssh, sudo, rsync), and what bootstrap and provision.sh ask for.
packages() {
	printf '%s,' systemd-sysv udev dbus kmod initramfs-tools linux-image-cloud-amd64 iproute2 procps
	printf '%s,' openssh-server sudo rsync ca-certificates
	printf '%s,' python3 python3-venv python3-bpfcc libbpf1 gcc
	printf '%s' libc6-dev
}

install_debian() {
	mmdebstrap --quiet --mode=root --variant=minbase --components=main --include="$(packages)" \
		--aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		bookworm "$root"
}

# The libraries are installed; setuptools, which builds memtap itself, lies ready for pip.
install_libraries() {
	# The guest's Python decides what fits, not the host's.
	set -- --quiet --disable-pip-version-check --only-binary=:all: --python-version 3.11 \
		--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
		--platform manylinux2014_x86_64
	"$PYTHON" -m pip install "$@" --root-user-action ignore \
		--target "$root/usr/local/lib/python3.11/dist-packages" --requirement "$requirements"
	"$PYTHON" -m pip download "$@" --dest "$root/usr/local/share/wheels" 'setuptools>=69' wheel
	printf '[global]\nno-index = true\nfind-links = /usr/local/share/wheels\n' >"$root/etc/pip.conf"
}

# The user that Vagrant logs in as, with the public key that every new box has.
add_user() {
	set -- /usr/share/rubygems-integration/all/gems/vagrant-*/keys/vagrant.pub \
		/opt/vagrant/embedded/gems/gems/vagrant-*/keys/vagrant.pub
	[ -e "$1" ] || shift
	chroot "$root" useradd --create-home --user-group --shell /bin/bash vagrant
	install -d -m 700 "$root/home/vagrant/.ssh"
	install -m 600 "$1" "$root/home/vagrant/.ssh/authorized_keys"
	chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
	echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
	chmod 440 "$root/etc/sudoers.d/vagrant"
}

configure_network() {
	echo memtap >"$root/etc/hostname"
	printf '127.0.0.1 localhost\n127.0.1.1 memtap\n' >"$root/etc/hosts"
	# The machine's own name server; resolved would take many seconds to start in emulation.
	rm -f "$root/etc/resolv.conf"
	echo 'nameserver 192.168.121.1' >"$root/etc/resolv.conf"
	printf '[Match]\nName=e*\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n' \
		>"$root/etc/systemd/network/80-dhcp.network"
	printf '[DHCPv4]\nClientIdentifier=mac\n' >>"$root/etc/systemd/network/80-dhcp.network"
	printf 'UseDNS no\nGSSAPIAuthentication no\n' >"$root/etc/ssh/sshd_config.d/vagrant.conf"
	chroot "$root" systemctl -q enable systemd-networkd ssh
}

# In emulation, each service that nobody needs costs a second of every start.
configure_start() {
	: >"$root/etc/machine-id" # each machine makes its own
	echo 'LABEL=root / ext4 noatime,errors=remount-ro 0 0' >"$root/etc/fstab"
	chroot "$root" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
		e2scrub_all.timer e2scrub_reap.service fstrim.timer getty@tty1.service \
		serial-getty@ttyS0.service systemd-networkd-wait-online.service systemd-pstore.service
	sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=gzip/' \
		"$root/etc/initramfs-tools/initramfs.conf"
	printf 'virtio_pci\nvirtio_blk\n' >>"$root/etc/initramfs-tools/modules"
	chroot "$root" update-initramfs -u
	mkdir -p "$root/boot/grub"
	cat >"$root/boot/grub/grub.cfg" <<-CFG
		set root=(hd0,msdos1)
		linux /vmlinuz root=LABEL=root ro net.ifnames=0 console=ttyS0 quiet mitigations=off
		initrd /initrd.img
		boot
	CFG
}

make_disk() {
	truncate -s "${mib}M" "$work/disk"
	# GRUB reads neither of the two features.
	mke2fs -q -t ext4 -L root -O ^metadata_csum_seed,^orphan_file \
		-E "offset=$((first * 512)),lazy_itable_init=0" -d "$root" "$work/disk" $((mib - 1))M
	echo "start=$first, type=83, bootable" | sfdisk -q -W never "$work/disk"
	grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o "$work/core.img" \
		biosdisk part_msdos ext2 linux normal
	# Its first sector looks for the rest in the second one, up to where the file system begins.
	dd status=none conv=notrunc of="$work/disk" bs=440 count=1 if=/usr/lib/grub/i386-pc/boot.img
	dd status=none conv=notrunc of="$work/disk" bs=512 seek=1 if="$work/core.img"
	qemu-img convert -q -m 2 -W -O qcow2 -c -o compression_type=zstd "$work/disk" "$work/box.img"
}

pack() {
	printf '{"provider": "libvirt", "format": "qcow2", "virtual_size": %d}\n' $((mib / 1024)) \
		>"$work/metadata.json"
	cp "$here/box.rb" "$work/Vagrantfile"
	tar -C "$work" -cf "$work/box" metadata.json Vagrantfile box.img
	mv "$work/box" "$box"
}

install_debian
install_libraries
add_user
configure_network
configure_start
make_disk
pack
