#!/bin/sh
# check_archive.sh - every function that <qwen/tensor.h>, <qwen/backend.h> and <qwen/ref.h> declare is in libqwen-backend.a,
# with nothing else to link; the archive is position-independent; its names are ours; C++ compiles the headers.
set -u
archive=libqwen-backend.a
[ -f "$archive" ] || { echo "no $archive in the current folder"; exit 99; }
tmp=$(mktemp -d "${TMPDIR:-/tmp}/archive.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
CC=${CC:-cc}
flags="${QW_LINK_FLAGS:-} -I${srcdir:-.}/include"
is() {
    what=$1; shift
    if "$@" >"$tmp/said" 2>&1; then passed=$((passed + 1))
    else failed=$((failed + 1)); echo "$what:"; head -n 20 "$tmp/said"; fi
}

# What the headers declare: of each declaration outside braces, the name before its parenthesis.
printf '#include <qwen/tensor.h>\n#include <qwen/backend.h>\n#include <qwen/ref.h>\n' >"$tmp/all.c"
# shellcheck disable=SC2086
$CC -E -P $flags "$tmp/all.c" 2>/dev/null | tr '\n' ' ' | awk '
    { depth = 0; out = ""
      for (i = 1; i <= length($0); i++) { c = substr($0, i, 1)
          if (c == "{") depth++; else if (c == "}") depth--; else if (!depth) out = out c }
      print out }' | tr ';' '\n' | grep -v typedef |
    sed -n 's/^[^(]*[ *]\(\(qw\|ref\)_[A-Za-z0-9_]*\) *(.*/\1/p' | LC_ALL=C sort -u >"$tmp/functions"
count=$(wc -l <"$tmp/functions")

{
    cat "$tmp/all.c"
    printf '%s\n' '#include <stdio.h>' 'typedef void (*any)(void);' 'extern const any all[];' 'const any all[] = {'
    sed 's/.*/    (any)&,/' "$tmp/functions"
    printf '%s\n' '};' 'int main(void) {' '    int n = 0;' '    while (n < (int)(sizeof all / sizeof all[0]) && all[n]) n++;' \
        '    printf("%d %s\n", n, ref_backend.name);' '    return 0;' '}'
} >"$tmp/program.c"

is "$count declared functions are too few to be true" test "$count" -ge 40
for name in qw_row_get qw_row_put qw_hadamard qw_decode_f32 ref_init ref_gemm; do
    is "$name is not among the declared functions" grep -qx "$name" "$tmp/functions"
done
# shellcheck disable=SC2086
is 'a program does not link from the archive alone' $CC $flags "$tmp/program.c" "$archive" ${QW_LINK_LIBS:--lm} -o "$tmp/program"
is 'the program does not run' "$tmp/program"
is "the program does not see $count functions" test "$("$tmp/program" 2>&1)" = "$count ref"
# shellcheck disable=SC2086
is 'a shared object does not link from it' $CC $flags -fPIC -shared "$tmp/program.c" "$archive" ${QW_LINK_LIBS:--lm} -o "$tmp/module.so"
if command -v nm >/dev/null 2>&1; then
    nm -g "$archive" | awk 'NF == 3 && $2 ~ /^[A-TV-Z]$/ && $3 !~ /^_?(qw|ref)_/ && $3 !~ /^_?_/ { print $3; bad = 1 }
        END { exit bad }' >"$tmp/names"
    is "the archive has names that are not ours: $(tr '\n' ' ' <"$tmp/names")" test ! -s "$tmp/names"
fi

# The check must find a function that is declared and nowhere defined.
sed 's/(any)qw_row_get,/(any)qw_row_forgotten,/; s/^typedef void/void qw_row_forgotten(void); &/' "$tmp/program.c" >"$tmp/forgotten.c"
# shellcheck disable=SC2086
is 'a missing function is not seen' sh -c '! "$@"' sh $CC $flags "$tmp/forgotten.c" "$archive" ${QW_LINK_LIBS:--lm} -o "$tmp/forgotten"

for cxx in ${CXX:-} g++ clang++ c++; do
    command -v "$cxx" >/dev/null 2>&1 || continue
    cp "$tmp/all.c" "$tmp/all.cc"
    echo 'extern "C" int ref_gemm(qw_device *dev, const qw_gemm_args *a); const qw_backend *b = &ref_backend;' >>"$tmp/all.cc"
    is "$cxx does not read the headers" "$cxx" -std=c++11 -Wall -Wextra -Werror -fsyntax-only -I"${srcdir:-.}/include" "$tmp/all.cc"
    break
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
