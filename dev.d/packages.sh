# shellcheck shell=bash disable=SC2154
# Which Debian packages each verb needs, and how those that are missing are installed: never upgrading or removing one.

packages_of() {
    case "$1" in
    build) echo g++ cmake ninja-build ccache binutils libgtest-dev libspdlog-dev nlohmann-json3-dev libcli11-dev libboost-dev libibverbs-dev librdmacm-dev ;;
    qemu) echo qemu-system-x86 python3 iproute2 ;;
    demo) packages_of qemu ;;
    test) echo clang-format-19 && packages_of qemu ;;
    slow-disk) echo python3-fusepy ;;
    libvirt) echo libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients python3-libvirt ;;
    lint) echo clang-format-19 clang-tidy-19 shellcheck python3 ;;
    fuzz) echo clang-19 libclang-rt-19-dev ;;
    lab) echo qemu-system-x86 iproute2 dash bash util-linux ibverbs-providers ibverbs-utils rdmacm-utils perftest xz-utils zstd python3 ;;
    perf) echo iperf3 && packages_of qemu ;;
    *) die "no package group '$1'" ;;
    esac
}

# packages GROUP...: all of these groups' packages are installed when it returns.
packages() {
    local group name missing=()
    for group in "$@"; do
        for name in $(packages_of "$group"); do
            is_installed "$name" || missing+=("$name")
        done
    done
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

# packages_wanted GROUP: the same, but where they cannot be had without touching what is there, the tests that need them are skipped.
packages_wanted() { (packages "$1") || say "without $(packages_of "$1"): what needs it is skipped"; }

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "needs root for: $*; run it as root, or install sudo"
    fi
}

install_packages() {
    command -v apt-get >/dev/null || die "missing: $*; this script installs them on Debian only"
    say "installing: $*"
    mkdir -p build
    local keep=$root/build/apt-preferences plan=$root/build/apt-plan
    # What is installed stays at its version, and packages of the same source are taken at that version where the archive has it.
    # shellcheck disable=SC2016
    dpkg-query -W -f='${db:Status-Status} ${source:Package} ${Version}\n' | sort -u |
        awk '$1 == "installed" {printf "Package: src:%s\nPin: version %s\nPin-Priority: 1001\n\n", $2, $3}' >"$keep"
    local apt=(apt-get -o Dir::Etc::Preferences="$keep" -o APT::Get::Assume-Yes=true -q)
    local install=(install --no-install-recommends --no-upgrade "$@")
    # An old or empty package list is renewed once, and only if it does not do.
    if ! LC_ALL=C "${apt[@]}" -s "${install[@]}" >"$plan" 2>&1 || ! LC_ALL=C "${apt[@]}" --print-uris "${install[@]}" >/dev/null 2>&1; then
        as_root apt-get update -q >&2
        LC_ALL=C "${apt[@]}" -s "${install[@]}" >"$plan" 2>&1 || refuse_install "$plan"
    fi
    # "Remv NAME", and "Inst NAME [installed version] (new version)": an upgrade.
    ! grep -Eq '^Remv |^Inst [^ ]+ \[' "$plan" || refuse_install "$plan"
    if ! as_root env DEBIAN_FRONTEND=noninteractive "${apt[@]}" "${install[@]}" >&2; then
        # A file that is gone from the archive means that the list is older than the archive.
        as_root apt-get update -q >&2
        LC_ALL=C "${apt[@]}" -s "${install[@]}" >"$plan" 2>&1 || refuse_install "$plan"
        ! grep -Eq '^Remv |^Inst [^ ]+ \[' "$plan" || refuse_install "$plan"
        as_root env DEBIAN_FRONTEND=noninteractive "${apt[@]}" "${install[@]}" >&2
    fi
}

refuse_install() {
    grep -E '^Remv |^Inst [^ ]+ \[|Depends:|^E:' "$1" >&2 || cat "$1" >&2
    die "the packages cannot be installed without upgrading or removing others (above); nothing was changed. Upgrade those yourself, then run this again"
}
