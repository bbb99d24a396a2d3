#!/bin/sh
# replay.sh - every saved input of testdata/fuzz through its target: a test of make check.
bad=0
for t in safetensors gguf config tokenizer yaml picture; do
    [ -x "./fuzz_$t" ] || continue
    "./fuzz_$t" "$QW_TESTDATA/fuzz/$t" || { echo "FAIL: fuzz_$t"; bad=1; }
done
exit $bad
