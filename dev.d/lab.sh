# shellcheck shell=bash disable=SC2154
# The soft-RoCE lab: what it is made of is fetched into the cache, and lab/main.py boots it. docs/lab.md

lab_kernel=6.12 # the default, as in lab/host.py

lab() {
    local word kernel=$lab_kernel previous='' libvirt=''
    for word in "$@"; do
        case "$word" in
        --) break ;;
        -h | --help) exec python3 lab/main.py --help ;;
        --libvirt) libvirt=libvirt ;;
        --kernel=*) kernel=${word#*=} ;;
        *) [ "$previous" != --kernel ] || kernel=$word ;;
        esac
        previous=$word
    done
    packages build lab ${libvirt:+"$libvirt"}
    lab_parts "$kernel"
    build release
    exec python3 lab/main.py --build build/release "$@"
}

# lab_parts KERNEL: that kernel and a static busybox are in the cache. Both are unpacked there; nothing is installed.
lab_parts() {
    local name
    case "$1" in
    6.1 | 6.12 | 7.3) ;;
    *) die "lab: no kernel '$1': 6.1, 6.12, 7.3" ;;
    esac
    if [ ! -d "$cache/lab/kernel-$1/root" ]; then
        name=$(lab_kernel_package "$1")
        if [ -z "$name" ]; then # the list of packages may be empty or old
            as_root apt-get update -q >&2
            name=$(lab_kernel_package "$1")
        fi
        [ -n "$name" ] || die "lab: none of this machine's configured archives has Linux $1 (apt-cache search linux-image-$1); \
6.1 and 6.12 are in Debian 12's, 7.3 in Debian 13's backports. Nothing was fetched"
    fi
    unpacked "lab/kernel-$1" 'boot/vmlinuz-*' "$(declare -f lab_kernel_package); lab_kernel_package $1" >/dev/null
    unpacked busybox bin/busybox 'echo busybox-static' >/dev/null
}

# The newest package of that kernel's plain flavour; the cloud flavour has no InfiniBand.
lab_kernel_package() {
    apt-cache search --names-only "^linux-image-${1//./\\.}\." | awk '{print $1}' |
        { grep -E '^linux-image-[0-9.]+([-+~][0-9a-z]+)*-amd64$' || true; } | { grep -Ev -e '-(cloud|rt)-' || true; } | sort -V | tail -n 1
}

# lab_gtests BUILD FILE [options]: GoogleTest programs whose subject is the kernel, run on the lab's; results in FILE.
lab_gtests() {
    local build=$1 file=$2 program conformance=pageferry-conformance
    # What differs from one kind of address to another; the rest is the same code for both.
    local addresses='--gtest_filter=Setup.*:Cancel.*:Leaks.*:Control.MessagesArrive*:Push.PagesLand*:Lanes/Pull.PagesArrive*'
    local listed=("conformance.tcp=$conformance --uri=tcp:127.0.0.1:0"
        "conformance.unix=$conformance --uri=unix:/tmp/pageferry-conformance-{pid}.sock $addresses")
    shift 2
    if [ -e "$build/bin/pageferry-transport-rdma.so" ]; then
        listed+=("conformance.rdma=$conformance --uri=rdma:10.77.0.1:0" "conformance.rdma6=$conformance --uri=rdma:[fd77::1]:0 $addresses")
    fi
    for program in "$build"/bin/test_rdma*; do
        [ ! -x "$program" ] || listed+=("$(basename "$program")")
    done
    python3 lab/gtest.py --cpus 1 --build "$build" --output "$file" "$@" "${listed[@]}" test_memory test_dirty_tracker
}
