#!/bin/sh
# In a machine: runs the tests, with what stands for memtap ready to be started, and with what was
# compiled there before.
#
# usage: tests.sh PYTHON COMMAND...

# shellcheck shell=dash
set -eu
ulimit -n 1048576
python=$1
shift
ready=$(mktemp -u)
mkfifo "$ready"
"$python" "$(dirname "$0")/starter.py" >"$ready" &
[ -e "$MEMTAP_COMMAND" ] || cc -O1 -o "$MEMTAP_COMMAND" "$(dirname "$0")/starter.c"
read -r _ <"$ready"
kept=/var/cache/memtap
mkdir -p $kept
chmod 700 $kept
[ ! -d "${MEMTAP_COMPILED:-}" ] || cp -r "$MEMTAP_COMPILED/." $kept
status=0
"$@" || status=$?
cp -r $kept /run/out/compiled
exit $status
