#!/bin/sh
# check.sh - make installcheck: programs and devices against the installed copy, found through pkg-config.  A program draws with
# libqwen; the devices of examples/backend are built against libqwen-backend, listed and judged by the installed kit; one
# draws the demo.  The onednn module, where it was installed, is found and judged.
#
# Environment: DESTDIR bindir libdir pkgconfigdir PKG_CONFIG CC CFLAGS LINK_FLAGS (sanitizers) srcdir.
set -u
here=$(pwd)
case $srcdir in /*) ;; *) srcdir=$here/$srcdir ;; esac
tmp=$(mktemp -d "${TMPDIR:-/tmp}/installed.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
cd "$tmp" || exit 99
passed=0 failed=0
PKG_CONFIG_PATH=$DESTDIR$pkgconfigdir; export PKG_CONFIG_PATH
if [ -n "$DESTDIR" ]; then PKG_CONFIG_SYSROOT_DIR=$DESTDIR; export PKG_CONFIG_SYSROOT_DIR; fi
LD_LIBRARY_PATH=$DESTDIR$libdir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}; export LD_LIBRARY_PATH
QWEN_MODULES=$tmp; export QWEN_MODULES
OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}; export OMP_WAIT_POLICY
demo=$srcdir/data/demo
words='a red circle on the left on a blue background'

is() { # is WHAT COMMAND...: it succeeds
    what=$1; shift
    if "$@" >"$tmp/said" 2>&1; then passed=$((passed + 1)); return 0; fi
    failed=$((failed + 1)); echo "FAIL $what:"; tail -n 20 "$tmp/said"; return 1
}
says() { # says PATTERN: the last command did
    if grep -q -e "$1" "$tmp/said"; then passed=$((passed + 1))
    else failed=$((failed + 1)); echo "FAIL $what does not say $1:"; head -n 20 "$tmp/said"; fi
}
# The build command that a source file's comment gives, with this build's compiler and flags.
build_of() { sed -n ':a
    /\\$/{ N; s/ *\\\n \* */ /; ba
    }
    s, \*/$,,; s,^ \*     cc ,$CC $CFLAGS $LINK_FLAGS ,p' "$1"; }

cp "$srcdir/examples/draw.c" "$srcdir/examples/backend/first.c" "$srcdir/examples/backend/example.c" "$srcdir/tests/installed/faster.c" . || exit 99
PATH=$(dirname "$PKG_CONFIG"):$PATH; export PATH
is 'draw.c is built as its comment says' eval "$(build_of draw.c)"
is 'draw.c draws' ./draw "$demo" "$words" draw.ppm
is 'draw.c writes a picture' test -s draw.ppm

is 'first.c is built as its comment says' eval "$(build_of first.c)"
is 'the kit on first swiglu' "$DESTDIR$bindir/qwen-conform" first swiglu && says '^first  *passed' && says '^0 failed'

is 'example.c is built as its comment says' eval "$(build_of example.c)"
is 'devices' "$DESTDIR$bindir/qwen-image" devices && says '^example  *the reference with a gemm'
if [ -f "$DESTDIR$libdir/libqwen/onednn.so" ]; then
    is 'devices with the onednn module' "$DESTDIR$bindir/qwen-image" devices && says '^onednn:f32  *oneDNN'
    is 'the kit on onednn' "$DESTDIR$bindir/qwen-conform" --cases 3 onednn:f32 gemm conv2d && says '^0 failed'
fi
is 'devices --json' "$DESTDIR$bindir/qwen-image" devices --json && says '"name": "example"'
is 'the kit' "$DESTDIR$bindir/qwen-conform" example && says '^0 failed'
for device in ref example; do
    is "the demo on $device" "$DESTDIR$bindir/qwen-image" generate -q -m "$demo" --device $device --strict --seed 1 --json \
        -o $device.png "$words" && says "\"device\":\"$device\""
done
# The device's gemm sums in float: a value at the border of two levels may differ by one level.
is 'the demo is the same picture to one level of 255' "$DESTDIR$bindir/qwen-image" compare --tolerance 1 ref.png example.png
# shellcheck disable=SC2046,SC2086
is 'faster.c is built' $CC $CFLAGS $LINK_FLAGS -o faster faster.c $("$PKG_CONFIG" --cflags --libs libqwen-backend) -ldl
if [ -n "$LINK_FLAGS" ]; then echo "instrumented code is not timed"
else is 'example is faster than ref' ./faster ./example.so; cat said; fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
