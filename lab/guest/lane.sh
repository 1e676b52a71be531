#!/bin/sh
# lane.sh NUMBER PROBLEMS: runs one command at a time for the host, which sends "TOKEN BASE64-OF-A-SHELL-SCRIPT" lines over one virtio
# port and gets "TOKEN STATUS" back on it; the command's output and errors go through ports of their own, each ended with the token.
exec 3<>"/dev/virtio-ports/lane$1.control" 4>"/dev/virtio-ports/lane$1.stdout" 5>"/dev/virtio-ports/lane$1.stderr"
if [ -n "$2" ]; then
    printf 'failed %s\n' "$2" >&3
else
    printf 'ready\n' >&3
fi
# shellcheck source=/dev/null
. /lib/lab/environment
while read -r token script <&3; do
    printf '%s' "$script" | base64 -d >"/run/lab/$1.sh"
    # In a session of its own, whose number is noted, so that all of it can be killed.
    # shellcheck disable=SC2016
    setsid sh -c 'echo $$ >"$1.pid" && exec sh "$1.sh"' sh "/run/lab/$1" </dev/null >&4 2>&5 3>&- 4>&- 5>&-
    status=$?
    rm -f "/run/lab/$1.pid"
    printf '\0%s\n' "$token" >&4
    printf '\0%s\n' "$token" >&5
    printf '%s %s\n' "$token" "$status" >&3
done
