#!/bin/sh
# Installs what machines with other kernels take, where it is missing.
#
# usage: install.sh QEMU    (as root; the package for that kind of machine)

set -eu

set -- "$1" qemu-system-common busybox-static kmod e2fsprogs zstd lz4 \
	debian-archive-keyring debootstrap
dpkg -s "$@" >/dev/null 2>&1 && exit
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends "$@"
