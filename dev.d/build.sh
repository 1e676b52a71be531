# shellcheck shell=bash disable=SC2154
# Configuring and building a preset.

# build PRESET [TARGET...]
build() {
    local preset=$1
    shift
    case "$preset" in
    release | debug | asan-ubsan | tsan) ;;
    fuzz) packages fuzz ;;
    *) die "no preset '$preset': release, debug, asan-ubsan, tsan, fuzz" ;;
    esac
    say "build $preset"
    local log="build/$preset.log" run=()
    mkdir -p build
    # A test program is run at build time for the names of its tests: under TSan it needs the address space below.
    [ "$preset" != tsan ] || mapfile -t run < <(fixed_addresses)
    "${run[@]}" cmake --preset "$preset" >"$log" 2>&1 || {
        cat "$log" >&2
        die "configuring '$preset' failed"
    }
    "${run[@]}" cmake --build "build/$preset" ${CMAKE_BUILD_PARALLEL_LEVEL:+-j "$CMAKE_BUILD_PARALLEL_LEVEL"} ${1:+--target "$@"} >&2 ||
        die "building '$preset' failed"
}

# GCC 12's ThreadSanitizer does not start where the kernel spreads mappings over more bits than it knows (vm.mmap_rnd_bits above 28).
fixed_addresses() {
    ! setarch "$(uname -m)" -R true 2>/dev/null || printf '%s\n' setarch "$(uname -m)" -R
}

# Own source files, NUL-separated: sources PATTERN...
sources() {
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files -z --cached --others --exclude-standard -- "$@" | while IFS= read -r -d '' file; do
            [ ! -e "$file" ] || printf '%s\0' "$file"
        done
    else # an unpacked archive
        local pattern
        for pattern in "$@"; do find . -path ./build -prune -o -name "$pattern" -type f -print0; done
    fi
}
