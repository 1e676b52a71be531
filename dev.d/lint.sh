# shellcheck shell=bash disable=SC2154
# ./dev lint: what a reviewer would have to look for otherwise.

lint() {
    packages build lint
    local failed=0
    lint_step format lint_format
    lint_step "file lengths" lint_lengths
    lint_step layers python3 tests/layering/layering.py
    lint_step shellcheck lint_shell
    build release
    lint_step "self-contained headers" lint_headers
    lint_step clang-tidy lint_tidy
    [ "$failed" = 0 ] || die "lint: $failed step(s) failed"
}

lint_step() {
    say "$1"
    "${@:2}" >&2 || {
        printf 'FAILED: %s\n' "$1" >&2
        failed=$((failed + 1))
    }
}

lint_format() { sources '*.cc' '*.h' '*.c' | xargs -0 -r clang-format-19 --dry-run -Werror; }

lint_lengths() {
    ! sources '*.cc' '*.h' '*.c' '*.py' | xargs -0 -r wc -l | awk '$2 != "total" && $1 > 500 {print $2 ": " $1 " lines: two things in one file?"}' | grep .
}

lint_shell() { { sources '*.sh' && printf '%s\0' dev .ci/run; } | xargs -0 -r shellcheck; }

# A header that needs another one to be included first breaks whoever includes it alone. Headers of C-only folders are read as C.
lint_headers() {
    # shellcheck disable=SC2016
    sources '*.h' | xargs -0 -r -P "$jobs" -n 1 bash -c '
        language=(-x c++ -std=c++23)
        compiler=${CXX:-g++}
        if compgen -G "$(dirname "$1")/*.c" >/dev/null && ! compgen -G "$(dirname "$1")/*.cc" >/dev/null; then
            language=(-x c -std=c11)
            compiler=${CC:-gcc}
        fi
        printf "#include \"%s\"\n" "$1" | "$compiler" "${language[@]}" -fsyntax-only -I . -D_GNU_SOURCE -DPAGEFERRY_VERSION=\"0\" -Wall -Wextra -Werror -
    ' _ || return 1
    # The ABI must hold in C as well.
    printf '#include "transport/abi/pageferry_transport.h"\n' | "${CC:-gcc}" -x c -std=c11 -pedantic -fsyntax-only -I . -Wall -Wextra -Werror -
}

lint_tidy() {
    sources '*.cc' '*.c' | python3 -c '
import json, os, sys
ours = {os.path.realpath(f) for f in sys.stdin.read().split("\0") if f}
seen = {os.path.realpath(os.path.join(e["directory"], e["file"])) for e in json.load(open("build/release/compile_commands.json"))}
print("\0".join(sorted(ours & seen)), end="\0" if ours & seen else "")' |
        xargs -0 -r -P "$jobs" -n 1 clang-tidy-19 --quiet -p build/release
}
