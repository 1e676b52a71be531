#!/usr/bin/env bash
# Packages of a newer Debian than this system, with all they need, unpacked into a folder and not installed.
#
#   newer_debian.sh FOLDER SUITE PACKAGE...     prints the root in which they lie; a second call finds what the first has made
#
# apt gets a state of its own in FOLDER, so the system's package lists, sources and packages stay as they are.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: newer_debian.sh FOLDER SUITE PACKAGE..." >&2; exit 2; }
suite=$2
mkdir -p "$1"
folder=$(cd "$1" && pwd)/$suite
shift 2
if [ -e "$folder/complete" ]; then
    printf '%s\n' "$folder/root"
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
apt-get "${own[@]}" --yes --no-install-recommends --download-only -t "$suite" install "$@" >&2
for package in "$folder"/apt/cache/archives/*.deb; do
    dpkg -x "$package" "$folder/root"
done
rm -rf "$folder/apt"
: >"$folder/complete"
printf '%s\n' "$folder/root"
