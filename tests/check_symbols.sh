#!/bin/sh
# check_symbols.sh - the shared library exports what tests/symbols.txt lists, and nothing else.
so=
for f in .libs/libqwen.so .libs/libqwen.so.*; do [ -f "$f" ] && so=$f; done
[ -n "$so" ] && command -v nm >/dev/null || { echo "no shared library or no nm: skipped"; exit 77; }
found=$(nm -D --defined-only "$so" | sed 's/@.*//' | awk '$2 != "A" { print $3 }' | LC_ALL=C sort)
expected=$(grep -v '^#' "$srcdir/tests/symbols.txt" | LC_ALL=C sort)
[ "$found" = "$expected" ] && exit 0
echo "$so exports other symbols than tests/symbols.txt lists (< list, > library):"
printf '%s\n' "$expected" > symbols.expected
printf '%s\n' "$found" > symbols.found
diff symbols.expected symbols.found
rm -f symbols.expected symbols.found
exit 1
