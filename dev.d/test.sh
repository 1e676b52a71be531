# shellcheck shell=bash disable=SC2154
# ./dev test: everything that must hold, summed in one line.

run_tests() {
    local quick='' filter='' lab=''
    while [ $# -gt 0 ]; do
        case "$1" in
        --quick) quick=yes ;;
        -*) die "test: no option '$1'" ;;
        *) filter="${filter:+$filter|}$1" ;;
        esac
        shift
    done
    packages build test
    packages_wanted slow-disk
    packages_wanted libvirt
    rm -rf build/test-results
    mkdir -p build/test-results
    if [ -n "$filter" ]; then
        build release
        if ctest --test-dir build/release -N -L '^lab$' -R "$filter" | grep -q '^  Test '; then
            packages lab
            lab_parts "$lab_kernel"
        fi
        run_ctest release -R "$filter"
    else
        check_format
        [ -n "$quick" ] || ! check_lab || lab=yes
        build release
        run_ctest release -LE '^lab$'
        [ -z "$lab" ] || test_lab
        if [ -z "$quick" ]; then
            # One after the other: two builds at once would only take turns on the same cores.
            for preset in asan-ubsan tsan; do
                build "$preset" sanitized_tests
                run_ctest "$preset" -L '^(unit|conformance|sanitized)$'
            done
        fi
    fi
    sum_results
}

# What the lab is made of is here, or a check of that name has failed and says why not: without it RDMA is not tested.
check_lab() {
    local said
    say "what the lab is made of"
    said=$( (packages lab && lab_parts "$lab_kernel") 2>&1 >/dev/null | tee /dev/stderr) && said='' || said=${said:-no reason was given}
    record_check lab "${said:+the lab is not to be had here, and what runs in it was not tested: $(tail -n 3 <<<"$said")}"
    [ -z "$said" ]
}

# The lab's tests. Those of two machines come first and alone; beside the others, on a machine of one processor, run the programs that
# run in the lab, with each test's name: both wait much of the time, and have no limit that is near.
test_lab() {
    local programs status=0
    rm -f build/test-results/lab.xml
    jobs=1 results=lab-tests-two run_ctest release -L '^two$'
    lab_gtests build/release build/test-results/lab.xml >build/lab-programs.log 2>&1 &
    programs=$!
    jobs=1 results=lab-tests run_ctest release -L '^lab$' -LE '^two$'
    say "test in the lab"
    wait "$programs" || status=$?
    cat build/lab-programs.log >&2
    [ -s build/test-results/lab.xml ] || record_check lab-programs "the programs in the lab wrote no results: status $status"
}

check_format() {
    say "format"
    local bad
    bad=$(sources '*.cc' '*.h' '*.c' | xargs -0 -r clang-format-19 --dry-run -Werror 2>&1) && bad=
    record_check format "$bad"
}

# record_check NAME TEXT: a check of this script itself, counted with the tests; it has failed when there is text.
record_check() {
    [ -z "$2" ] || printf '%s\nFAILED: %s\n' "$2" "$1" >&2
    python3 dev.d/results.py --check "$1" "${2:+failed}" <<<"$2" >"build/test-results/check-$1.xml"
}

# run_ctest PRESET [ctest options], results in $results.xml or PRESET.xml: goes on after a failure, so that the sum is of everything.
run_ctest() {
    local preset=$1 results=${results:-$1} run=()
    shift
    say "test $preset"
    [ "$preset" != tsan ] || mapfile -t run < <(fixed_addresses)
    # Integration tests wait for whole virtual machines: more at once than there are processors would only make each slower.
    env ASAN_OPTIONS="detect_stack_use_after_return=1:strict_string_checks=1:${ASAN_OPTIONS:-}" \
        UBSAN_OPTIONS="print_stacktrace=1:${UBSAN_OPTIONS:-}" TSAN_OPTIONS="second_deadlock_stack=1:${TSAN_OPTIONS:-}" \
        "${run[@]}" ctest --test-dir "build/$preset" -j "$jobs" --output-on-failure --no-tests=error \
        --output-junit "$root/build/test-results/$results.xml" --test-output-size-failed 1000000 "$@" >&2 || true
    [ -s "build/test-results/$results.xml" ] || record_check "ctest-$results" "ctest wrote no results"
}

sum_results() { python3 dev.d/results.py build/test-results/*.xml; }
