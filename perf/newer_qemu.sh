#!/usr/bin/env bash
# A newer QEMU than this system's, to measure beside: taken from Debian 13 (its backports by default), unpacked into a folder, not installed.
#
#   newer_qemu.sh FOLDER [SUITE]     prints the path of a program that stands for qemu-system-x86_64; a second call finds what the first has made
#
# apt gets a state of its own in FOLDER, so the system's package lists, sources and packages stay as they are.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: newer_qemu.sh FOLDER [SUITE]" >&2; exit 2; }
suite=${2:-trixie-backports}
mkdir -p "$1"
folder=$(cd "$1" && pwd)/$suite
program=$folder/qemu-system-x86_64
if [ -x "$program" ]; then
    printf '%s\n' "$program"
    exit
fi

keys=/usr/share/keyrings/debian-archive-keyring.gpg
mkdir -p "$folder"/apt/{lists/partial,cache/archives/partial,etc/preferences.d} "$folder/root"
: >"$folder/apt/status"
: >"$folder/apt/etc/preferences"
for one in trixie trixie-backports; do
    printf 'deb [signed-by=%s] http://deb.debian.org/debian %s main\n' "$keys" "$one"
done >"$folder/apt/sources.list"
own=(-q -o "Dir::State=$folder/apt" -o "Dir::State::status=$folder/apt/status" -o "Dir::State::lists=$folder/apt/lists"
    -o "Dir::Cache=$folder/apt/cache" -o "Dir::Etc::sourcelist=$folder/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::Etc::preferences=$folder/apt/etc/preferences" -o "Dir::Etc::preferencesparts=$folder/apt/etc/preferences.d" -o Debug::NoLocking=1
    -o APT::Sandbox::User=root)
apt-get "${own[@]}" update >&2
apt-get "${own[@]}" --yes --no-install-recommends --download-only -t "$suite" install qemu-system-x86 seabios >&2
for package in "$folder"/apt/cache/archives/*.deb; do
    dpkg -x "$package" "$folder/root"
done
rm -rf "$folder/apt"

# Its own loader and libraries: those of this system may be older. Firmware is found by -L, as it is not where QEMU was told at its build.
cat >"$program" <<SH
#!/bin/sh
exec "$folder/root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$folder/root/usr/lib/x86_64-linux-gnu:$folder/root/usr/lib" \\
    "$folder/root/usr/bin/qemu-system-x86_64" -L "$folder/root/usr/share/qemu" -L "$folder/root/usr/share/seabios" "\$@"
SH
chmod +x "$program"
printf '%s\n' "$program"
