#!/bin/sh
# In a machine: runs the tests, with what stands for memtap ready to be started.
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
exec "$@"
