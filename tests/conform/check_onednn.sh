#!/bin/sh
# check_onednn.sh - the devices of the onednn module: the kit, names, a processor without bf16, and a picture.
set -u
[ "${QW_ONEDNN:-no}" = yes ] || { echo "the onednn module is not built: ${QW_ONEDNN:-no}: skipped"; exit 77; }
tmp=$(mktemp -d "${TMPDIR:-/tmp}/onednn.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
QWEN_MODULES=$(pwd)/backends/onednn/.libs; export QWEN_MODULES
unset DNNL_MAX_CPU_ISA ONEDNN_MAX_CPU_ISA DNNL_VERBOSE ONEDNN_VERBOSE DNNL_DEFAULT_FPMATH_MODE ONEDNN_DEFAULT_FPMATH_MODE
# The tracer of LeakSanitizer does not survive oneDNN's threads.
ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0; export ASAN_OPTIONS

is() { # is WHAT COMMAND...: it succeeds
    what=$1; shift
    if "$@" >"$tmp/said" 2>&1; then passed=$((passed + 1)); return 0; fi
    failed=$((failed + 1)); echo "FAIL $what:"; tail -n 20 "$tmp/said"; return 1
}
says() { # says PATTERN: the last command did
    if grep -q -e "$1" "$tmp/said"; then passed=$((passed + 1))
    else failed=$((failed + 1)); echo "FAIL $what does not say $1:"; head -n 20 "$tmp/said"; fi
}

is 'devices' ./qwen-image devices && says '^onednn:f32  *oneDNN [0-9.]*, products of f32; the rest is '
devices=$(sed -n '/not here/d; s/^\(onednn:[a-z0-9]*\) .*/\1/p' "$tmp/said")
is 'the name of the backend' ./qwen-conform --list onednn && says "^$(echo "$devices" | tail -n 1) gemm"
is 'another device is the default' sh -c './qwen-image devices | grep -v ^onednn | grep -q "the default"'
for device in $devices; do
    is "the kit on $device" ./qwen-conform --cases 6 --seed 0dd "$device" && says '^0 failed'
    is "large products on $device" ./qwen-conform --cases 3 --flops 4e8 "$device" gemm conv2d && says '^0 failed'
    is "oneDNN says what it computes on $device" env DNNL_VERBOSE=1 ./qwen-conform --cases 3 "$device" gemm conv2d
    if grep -q '^onednn_verbose' "$tmp/said"; then says 'exec,cpu,matmul,'; says 'exec,cpu,convolution,'; fi
done

# oneDNN takes the variable for the processor that it sees.
case $(uname -m) in x86_64|amd64|i?86)
    DNNL_MAX_CPU_ISA=AVX2; export DNNL_MAX_CPU_ISA
    is 'devices without bf16' ./qwen-image devices && says '^onednn:bf16 .*not here: .*bf16'
    is 'a device that is not here' sh -c '! ./qwen-conform onednn:bf16 swiglu' && says 'onednn:bf16.*bf16 pairs'
    is 'the kit with AVX2' ./qwen-conform --cases 6 onednn:f32 gemm conv2d && says '^0 failed'
    unset DNNL_MAX_CPU_ISA
esac

for device in ref onednn:f32; do
    is "a picture on $device" ./qwen-image generate -q -m "$QWEN_DATADIR/demo" --device $device --strict --steps 2 --seed 1 \
        -o "$tmp/$device.png" 'a red circle on the left on a blue background'
done
is 'the pictures are the same to one level of 255' ./qwen-image compare --tolerance 1 "$tmp/ref.png" "$tmp/onednn:f32.png"

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
