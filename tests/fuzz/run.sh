#!/bin/sh
# run.sh - each fuzz target for a while: run.sh [SECONDS] [TARGET...], in a build folder made with
# CC=clang ./configure --enable-fuzzers --enable-sanitizers.  New inputs stay in fuzz-corpus/; findings
# in fuzz-findings/.  Exit 0 if there is none.
set -u
seconds=${1:-600}
[ $# -gt 0 ] && shift
here=$(cd "$(dirname "$0")" && pwd)
seeds=$here/../../testdata/fuzz
bad=0
for t in ${*:-safetensors gguf config tokenizer yaml picture}; do
    mkdir -p "fuzz-corpus/$t" fuzz-findings
    echo "== $t, $seconds s"
    ./fuzz_$t -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -max_len=65536 -print_final_stats=1 \
        -verbosity=0 -close_fd_mask=3 -artifact_prefix="fuzz-findings/$t-" "fuzz-corpus/$t" "$seeds/$t" || bad=1
done
[ $bad = 0 ] && echo "no findings"
exit $bad
