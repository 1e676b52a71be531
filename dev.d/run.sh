# shellcheck shell=bash disable=SC2154
# The verbs that run what was built.

demo() {
    packages build demo
    local argument previous='' in_lab='' linux=()
    for argument in "$@"; do
        case "$previous $argument" in
        *' --help' | *' -h') exec python3 demo/demo.py --help ;;
        *' --linux') linux=(wanted) ;;
        *' --transport=rdma' | '--transport rdma') in_lab=yes ;;
        esac
        previous=$argument
    done
    if [ -n "$in_lab" ]; then
        packages lab
        lab_parts "$lab_kernel"
    fi
    build release
    if [ ${#linux[@]} -gt 0 ]; then
        local files
        files=$(linux_guest)
        mapfile -t linux <<<"$files"
    fi
    [ -z "$in_lab" ] || demo_in_lab "${linux[@]}" "$@"
    exec python3 demo/demo.py --build build/release "${linux[@]}" "$@"
}

# This machine may have no RDMA device; the lab's has one.
demo_in_lab() {
    local argument add=() shown=()
    for argument in "$@"; do
        case "$argument" in
        /*) [ ! -f "$argument" ] || add+=(--add "$argument") ;; # the Linux guest's parts
        esac
    done
    [ ! -t 1 ] || shown=(--as-terminal)
    exec python3 lab/main.py --build build/release --qemu --limit 900 "${add[@]}" -- \
        python3 demo/demo.py --build "$root/build/release" "${shown[@]}" "$@"
}

# What the Linux guest is made of is downloaded once and unpacked in the cache, not installed: a kernel, and a busybox that would
# otherwise take the place of another one.
linux_guest() {
    local kernel busybox
    kernel=$(unpacked kernel 'boot/vmlinuz-*' "apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-[0-9]/ {print \$2; exit}'")
    busybox=$(unpacked busybox bin/busybox 'echo busybox-static')
    printf '%s\n' --kernel "$kernel" --busybox "$busybox"
}

# unpacked NAME FILE COMMAND: the path of FILE (the end of it, a pattern) in the package that COMMAND names.
unpacked() {
    local directory="$cache/$1" found package
    found=$(find "$directory/root" -type f -path "*/$2" 2>/dev/null | sort -V | tail -n 1) || true # not there yet
    if [ -z "$found" ]; then
        rm -rf "$directory"
        mkdir -p "$directory"
        package=$(bash -c "$3" 2>/dev/null)
        if [ -z "$package" ] || ! download "$package" "$directory"; then # the list is empty, or older than the archive
            as_root apt-get update -q >&2
            package=$(bash -c "$3")
            download "$package" "$directory" || die "apt-get download $package failed"
        fi
        dpkg -x "$directory"/*.deb "$directory/root" || die "cannot unpack $package"
        rm -f "$directory"/*.deb
        found=$(find "$directory/root" -type f -path "*/$2" | sort -V | tail -n 1)
    fi
    [ -n "$found" ] || die "no $2 in $directory; remove the directory and try again"
    printf '%s\n' "$found"
}

download() { (say "downloading $1 into $2" && cd "$2" && apt-get download -q "$1" >&2); }

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
    local argument in_lab='' postcopy='' libvirt='' newer='' rest=()
    for argument in "$@"; do
        case "$argument" in
        --lab) in_lab=yes ;;
        --postcopy) postcopy=yes ;;
        --libvirt) libvirt=yes ;;
        *) rest+=("$argument") ;;
        esac
    done
    packages build perf
    if [ -n "$in_lab" ]; then
        packages lab
        lab_parts "$lab_kernel"
        build release
        exec python3 perf/lab.py --build build/release "${rest[@]}"
    fi
    [ -z "$libvirt" ] || packages libvirt
    build release
    if [ -n "$libvirt" ]; then
        exec python3 perf/under_libvirt.py --build build/release "${rest[@]}"
    fi
    if [ -n "$postcopy" ]; then
        newer=$(perf/newer_qemu.sh "$cache/qemu") || say "no newer QEMU: measuring beside this system's alone"
        exec python3 perf/postcopy.py --build build/release --newer "$newer" "${rest[@]}"
    fi
    exec python3 perf/compare.py --build build/release "${rest[@]}"
}
