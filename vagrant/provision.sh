#!/bin/sh
# Makes `memtap`, `demo` and `memtap-demo` commands of the machine that this checkout is in. Nothing is
# fetched where it is there already, and kernel headers are not asked for.
#
# usage: provision.sh    (as root)

set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
bootstrap=${here%/*}/bootstrap
commands=/usr/local/bin # also on the PATH that sudo gives

install_compiler() {
	! dpkg -s gcc libc6-dev >/dev/null 2>&1 || return 0
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	apt-get -qq install -y --no-install-recommends gcc libc6-dev
}

"$bootstrap" memtap --version
printf '#!/bin/sh\nexec %s memtap "$@"\n' "$bootstrap" >"$commands/memtap"
chmod 755 "$commands/memtap"
install_compiler
cc -O1 -pthread -o "$commands/demo" "$here/demo.c"
ln -sf "$here/demo" "$commands/memtap-demo"
