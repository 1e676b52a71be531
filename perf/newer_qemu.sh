#!/usr/bin/env bash
# A newer QEMU than this system's, to measure beside: taken from Debian 13 (its backports by default), unpacked into a folder, not installed.
#
#   newer_qemu.sh FOLDER [SUITE]     prints the path of a program that stands for qemu-system-x86_64; a second call finds what the first has made
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: newer_qemu.sh FOLDER [SUITE]" >&2; exit 2; }
root=$("$(dirname "$0")/newer_debian.sh" "$1" "${2:-trixie-backports}" qemu-system-x86 seabios)
program=$(dirname "$root")/qemu-system-x86_64

# Its own loader and libraries: those of this system may be older. Firmware is found by -L, as it is not where QEMU was told at its build.
cat >"$program" <<SH
#!/bin/sh
exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu:$root/usr/lib" \\
    "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" "\$@"
SH
chmod +x "$program"
printf '%s\n' "$program"
