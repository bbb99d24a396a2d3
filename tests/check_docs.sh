#!/bin/sh
# check_docs.sh - what the documents name exists: files, functions, and README's copy of the example.
set -u
cd "${srcdir:-.}" || exit 99
passed=0 failed=0
headers=$(find lib include reference conform -name '*.h')
ok()  { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "$*"; }
documents='README.md CONTRIBUTING.md doc/*.md lib/README.md reference/README.md conform/README.md cli/README.md tests/README.md'

# Files of the tree, by path.  backends/ may be named before it is there.
for path in $(grep -ohE '\b(include|lib|reference|conform|cli|tests|examples|doc)/[A-Za-z0-9_/-]+\.(c|h|sh|md|1|mk|map)\b' $documents | sort -u); do
    if [ -f "$path" ]; then ok; else bad "$path is named in $(grep -lF "$path" $documents | tr '\n' ' ')and does not exist"; fi
done

# Files that a room's README names without a path are in that room.
for room in lib reference conform cli tests; do
    for name in $(grep -ohE '`[a-z_0-9]+\.(c|h|sh)`' $room/README.md | tr -d '`' | sort -u); do
        if [ -n "$(find $room lib include -name "$name")" ]; then ok; else bad "$room/README.md names $name, which is not there"; fi
    done
done

# Functions and constants of ours, by name, in code quotes.
for name in $(grep -ohE '`(qw|qwen|QW|QWEN)_[A-Za-z0-9_]+' $documents | tr -d '`' | sort -u); do
    case $name in
    *_) continue ;;                     # a family of names: qw_*
    QWEN_*) grep -qrE "\b$name\b" lib cli tests include conform Makefile.am && ok || bad "$name is named in the documents and nowhere else" ;;
    *) if grep -qE "\b$name\b" $headers || { stem=${name#qw_}; grep -qE "X\($stem\)" include/qwen/backend.h; }; then ok
       else bad "$name is named in the documents and in no header"; fi ;;
    esac
done

# The example in README is examples/draw.c, to the letter.
if sed -n '/^```c$/,/^```$/p' README.md | sed '1d;$d' | cmp -s - examples/draw.c; then ok
else bad "the C example in README.md is not examples/draw.c"; fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 20 ]
