#!/bin/sh
# check_kit.sh - the kit's command: exit statuses and sentences for what a user types and files hold.
set -u
tmp=$(mktemp -d "${TMPDIR:-/tmp}/kit.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

# is STATUS PATTERN ARGUMENT...: the kit ends with the status, and a line of its output matches.
is() {
    status=$1 pattern=$2
    shift 2
    ./qwen-conform "$@" >"$tmp/out" 2>&1
    got=$?
    if [ "$got" = "$status" ] && grep -q -e "$pattern" "$tmp/out"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "qwen-conform $*: exit $got, expected $status and \"$pattern\""
        head -5 "$tmp/out"
    fi
}

line=swiglu/f32,f32/-/2x4/normal/1
: >"$tmp/empty"
printf '# a comment\n\n' >"$tmp/comments"
printf '%s\n# a comment\n' "$line" >"$tmp/one"
printf '%s\nswiglu/f32/-/0x4\n' "$line" >"$tmp/wrong"

is 0 '^usage: qwen-conform' --help
is 0 '^ok .*swiglu' ref --line "$line"
is 0 '^0 failed' ref --shapes "$tmp/one"
is 0 '^0 failed' ref swiglu --cases 2
is 0 '^ref gemm ' ref --list
is 0 '"outcome": "passed"' ref swiglu --cases 2 --json
is 3 'empty: no line of an operation' ref --shapes "$tmp/empty"
is 3 'comments: no line of an operation' ref --shapes "$tmp/comments"
is 3 'no line of an operation that is to be judged' ref gemm --shapes "$tmp/one"
is 3 'wrong:2: ' ref --shapes "$tmp/wrong"
is 3 'No such file' ref --shapes "$tmp/nowhere"
is 2 'nor an operation of that name; these are judged: gemm ' ref no-such-op
is 2 '^usage: qwen-conform' ref --cases 0
is 2 '^usage: qwen-conform' ref --cases
is 2 '^usage: qwen-conform' --no-such-option 1
is 2 'no dtype' ref --line swiglu/f33/-/2x4

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
