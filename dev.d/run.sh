# shellcheck shell=bash disable=SC2154
# The verbs that run what was built.

demo() {
    packages build demo
    local argument linux=()
    for argument in "$@"; do
        [ "$argument" != --help ] || exec python3 demo/demo.py --help
        [ "$argument" != --linux ] || linux=(linux)
    done
    [ ${#linux[@]} -eq 0 ] || packages linux
    build release
    if [ ${#linux[@]} -gt 0 ]; then
        exec python3 demo/demo.py --build build/release --kernel "$(linux_kernel)" "$@"
    fi
    exec python3 demo/demo.py --build build/release "$@"
}

# The path of a Debian kernel for the Linux guest: downloaded once, unpacked in the cache, not installed.
linux_kernel() {
    local directory="$cache/kernel" found package
    found=$(find "$directory/root/boot" -name 'vmlinuz-*' 2>/dev/null | sort -V | tail -n 1)
    if [ -z "$found" ]; then
        say "fetching a Debian kernel into $directory"
        rm -rf "$directory"
        mkdir -p "$directory"
        package=$(kernel_package)
        if [ -z "$package" ]; then
            as_root apt-get update -q >&2
            package=$(kernel_package)
        fi
        [ -n "$package" ] || die "apt knows no linux-image-cloud-amd64"
        (cd "$directory" && { apt-get download "$package" || { as_root apt-get update -q && apt-get download "$package"; }; }) >&2 ||
            die "apt-get download $package failed"
        dpkg -x "$directory"/*.deb "$directory/root"
        found=$(find "$directory/root/boot" -name 'vmlinuz-*' | sort -V | tail -n 1)
    fi
    [ -n "$found" ] || die "no kernel in $directory"
    printf '%s\n' "$found"
}

kernel_package() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-[0-9]/ {print $2; exit}'; }

fuzz() {
    packages build fuzz
    build fuzz
    local target failed=0
    for target in build/fuzz/bin/*_fuzz; do
        [ -x "$target" ] || die "no fuzz target was built"
        say "$(basename "$target"), $1 s"
        mkdir -p "build/corpus/$(basename "$target")"
        "$target" -max_total_time="$1" -print_final_stats=1 -artifact_prefix="build/corpus/" "build/corpus/$(basename "$target")" || failed=$((failed + 1))
    done
    [ "$failed" = 0 ] || die "$failed fuzz target(s) found something: build/corpus/crash-*"
}

perf() {
    packages build perf
    build release
    exec python3 perf/compare.py --build build/release "$@"
}
