#!/bin/sh
# check_modules.sh - modules are found beside the library that runs, wherever it lies, and beside a program that it is
# linked into.
#
# Copies of the library, the command and the kit are run from a folder of their own.
set -u
[ -f tests/core/.libs/module_alpha.so ] || { echo "no shared libraries here: skipped"; exit 77; }
tmp=$(mktemp -d "${TMPDIR:-/tmp}/modules.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
unset QWEN_MODULES

mkdir -p "$tmp/bin" "$tmp/lib/libqwen" "$tmp/alone/libqwen" "$tmp/far/bare"
program=qwen-image
[ -f .libs/qwen-image ] && program=.libs/qwen-image
cp "$program" "$tmp/bin/qwen-image"
cp "$program" "$tmp/far/bare/qwen-image"
cp qwen-conform "$tmp/bin/"
cp qwen-conform "$tmp/alone/"
cp qwen-conform "$tmp/far/bare/"
for so in .libs/libqwen.so.*; do [ -f "$so" ] && cp -P "$so" "$tmp/lib/"; done
cp tests/core/.libs/module_alpha.so "$tmp/lib/libqwen/alpha.so"
cp tests/core/.libs/module_alpha.so "$tmp/alone/libqwen/alpha.so"
library=$(pwd)/.libs

# finds HOW COMMAND...: the output names the module's device.  misses: it does not.
finds() {
    how=$1; shift
    if "$@" 2>&1 | grep -q 'alpha:plain'; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "not found: $how"; fi
}
misses() {
    how=$1; shift
    if "$@" 2>&1 | grep -q 'alpha:plain'; then failed=$((failed + 1)); echo "found: $how"; else passed=$((passed + 1)); fi
}

cd "$tmp" || exit 99
finds 'beside the shared library' env LD_LIBRARY_PATH="$tmp/lib" bin/qwen-image devices
finds 'linked statically, in bin beside lib' "$tmp/bin/qwen-conform" no-such-device
finds 'linked statically, found by $PATH' env PATH="$tmp/bin:$PATH" qwen-conform no-such-device
finds 'linked statically, by a relative path' bin/qwen-conform no-such-device
finds 'linked statically, in a folder beside it' alone/qwen-conform no-such-device
misses 'linked statically, with no folder beside it' far/bare/qwen-conform no-such-device
misses 'the library of the build, with no folder beside it' env LD_LIBRARY_PATH="$library" far/bare/qwen-image devices
finds 'in $QWEN_MODULES' env QWEN_MODULES="$tmp/nowhere:$tmp/lib/libqwen" far/bare/qwen-conform no-such-device

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
