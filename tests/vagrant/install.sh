#!/bin/sh
# Installs what it takes to build a box and to bring it up; does nothing where it is there already.

set -eu

set -- vagrant vagrant-libvirt libvirt-daemon libvirt-daemon-system libvirt-daemon-driver-qemu \
	qemu-system-x86 qemu-utils dnsmasq-base iptables iproute2 openssh-client rsync \
	mmdebstrap debian-archive-keyring e2fsprogs fdisk grub-common grub-pc-bin

install() {
	apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-upgrade --no-install-recommends "$@"
}

! dpkg -s "$@" >/dev/null 2>&1 || exit 0
export DEBIAN_FRONTEND=noninteractive
install "$@" || {
	apt-get -qq update
	install "$@"
}
