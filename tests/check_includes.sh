#!/bin/sh
# check_includes.sh - the #include lines against the table of rooms in doc/architecture.md.
#
# A row is "room | may include | faces".  A room includes its own headers; of a room in the second column it includes
# the faces, of a header in the second column that header alone.  A row for a file adds to the row of its room.
# A face has 150 lines at most (an installed header and the command's may have more), any file of code 800.  The check
# tries itself first on a tree with breaches.
set -u

# check_tree TABLE: every file of the current folder's rooms; "FILE:LINE: sentence" a breach, then a count.
check_tree() {
    find include lib reference backends conform cli examples tests -type f 2>/dev/null | LC_ALL=C sort >"$tmp/all"
    grep -E '\.(c|h|cc|cpp|cu|cuh|hip|sh|mk)$' "$tmp/all" >"$tmp/files"
    xargs wc -l <"$tmp/files" | awk '$2 != "total"' >"$tmp/lines"
    grep -vE '^tests/|\.(sh|mk)$' "$tmp/files" | xargs grep -nHE '^[[:space:]]*#[[:space:]]*include' >"$tmp/includes"
    awk -v table="$1" -v lines="$tmp/lines" '
    function bad(why) { print at ": " why; failed[file] = 1 }
    function trim(s) { gsub(/^[ \t]+|[ \t]+$/, "", s); return s }
    # The room of a path: the longest row that begins it.  A row for a file is no room.
    function room_of(path,   r, best) {
        for (r in may) if (r !~ /\.[a-z]+$/ && index(path, r "/") == 1 && length(r) > length(best)) best = r
        return best
    }
    function has(list, word) { return index(" " list " ", " " word " ") > 0 }
    # The path of an include inside the tree, or "" for one that is not of the tree.
    function resolve(name, own,   folder) {
        if (name ~ /^qwen\//) return "include/" name
        folder = file; sub(/[^\/]*$/, "", folder)
        if ((folder name) in exists) return folder name
        if (("lib/" name) in exists) return "lib/" name
        if (name in exists) return name
        if (own ~ /^cli/ && ("cli/" name) in exists) return "cli/" name
        return ""
    }
    function system_header(name, own) {
        if (name ~ /^(png|pngconf|jpeglib|jerror|yaml)\.h$|^webp\// && own !~ /^cli/) bad("<" name "> belongs to cli/")
        if (name == "jansson.h" && own !~ /^(lib|cli|conform)/) bad("<" name "> belongs to lib/, cli/ and conform/")
        if (name == "utf8proc.h" && own !~ /^lib/) bad("<" name "> belongs to lib/")
        if (name ~ /intrin\.h$|^arm_|^cuda|^cublas|^hip|^dnnl|^oneapi/ && own !~ /^backends/ && !has(may[file], name)) bad("<" name "> belongs to backends/")
    }
    # A room of lib/ may name only rooms that stand above it in the table, so that the rooms are in no circle.
    function read_table(   line, c, row, words, i, n, inside) {
        while ((getline line <table) > 0) {
            if (line ~ /<!-- rooms -->/) inside = 1
            if (line ~ /<!-- \/rooms -->/) inside = 0
            if (!inside || split(line, c, "|") < 5 || c[2] ~ /^ *(room|-+) *$/) continue
            row = trim(c[2]); rooms++; at = file = table
            n = split(trim(c[3]), words, " ")
            for (i = 1; i <= n; i++)
                if (row ~ /^lib\// && words[i] ~ /^lib\/[a-z]+$/ && !(words[i] in may)) bad(row " may not name " words[i] ", which does not stand above it")
            may[row] = trim(c[3]); faces[row] = trim(c[4])
        }
        if (!rooms) { at = file = table; bad("no table of rooms") }
    }
    BEGIN {
        read_table()
        while ((getline line <lines) > 0) { split(line, c, " "); exists[c[2]] = c[1] }
        for (file in exists) lived_in[room_of(file)] = 1
        for (row in faces) {
            n = split(faces[row], words, " "); at = file = table
            for (i = 1; i <= n; i++)
                if (row in lived_in && !((row "/" words[i]) in exists)) bad("there is no " row "/" words[i])
        }
        for (file in exists) {
            at = file; all++; own = room_of(file); name = file; sub(/.*\//, "", name)
            if (own == "" && name != "sources.mk") bad("is in no room of the table")
            if (exists[file] > 800) bad(exists[file] " lines, 800 are the most")
            if (own !~ /^(include|cli)/ && has(faces[own], name) && exists[file] > 150) bad("a face of " exists[file] " lines, 150 are the most")
        }
    }
    {
        split($0, c, ":"); file = c[1]; at = c[1] ":" c[2]; own = room_of(file)
        name = $0; sub(/^[^#]*#[ \t]*include[ \t]*/, "", name); quoted = name ~ /^"/
        if (name !~ /^["<]/) { bad("an include by a macro cannot be checked"); next }
        sub(/^["<]/, "", name); sub(/[">].*/, "", name)
        path = resolve(name, own)
        if (path == "" && !quoted) { system_header(name, own); next }
        if (!(path in exists)) { bad("no header of the tree is called " name); next }
        to = room_of(path); face = path; sub(/.*\//, "", face)
        allowed = may[own] " " may[file]
        if (to == own && to != "include/qwen" || has(allowed, path)) next
        if (to == own && has(faces[to], face)) next
        if (!has(allowed, to)) bad(own " may not include " path)
        else if (!has(faces[to], face)) bad(path " is no face of " to)
    }
    END { for (f in failed) failures++; print all - failures " passed, " failures + 0 " failed" }' "$tmp/includes"
}

# A tree with breaches, all of which the check must report, among correct lines.
try_itself() {
    mkdir -p "$tmp/tree" && cd "$tmp/tree" &&
    mkdir -p include/qwen lib/core lib/files lib/nets reference backends/cpu backends/onednn conform cli/find examples tests/core other || exit 99
    cat >table.md <<'END'
| lib/none | lib/core | |
<!-- rooms -->
| room | may include | faces |
|---|---|---|
| include/qwen | | qwen.h backend.h |
| lib/core | include/qwen lib/files | core.h run.h |
| lib/core/registry.c | include/qwen/ref.h backends/cpu/cpu.h | |
| lib/files | include/qwen lib/core | store.h json.h |
| lib/nets | include/qwen lib/core lib/files/store.h | net.h gone.h |
| lib/absent | | gone.h |
| reference | include/qwen include/qwen/ref.h | |
| backends/cpu | include/qwen | cpu.h |
| backends/onednn | include/qwen backends/cpu | |
| conform | include/qwen lib/core | conform.h |
| cli | include/qwen/qwen.h cli/find | cli.h |
| cli/find | include/qwen/qwen.h cli | find.h |
| examples | include/qwen/qwen.h | |
| tests | | |
<!-- /rooms -->
END
    for file in include/qwen/qwen.h include/qwen/ref.h lib/core/core.h lib/core/run.h lib/core/run_inside.h lib/files/store.h \
        lib/files/files.h lib/nets/net.h backends/cpu/cpu.h backends/cpu/vec.h cli/cli.h cli/find/find.h conform/conform.h; do : >$file; done
    many() { awk -v n="$1" 'BEGIN { for (i = 0; i < n; i++) print "" }'; }
    many 151 >lib/files/json.h; many 151 >lib/core/run_inside.h; many 150 >lib/nets/net.h
    many 801 >lib/nets/long.c; many 801 >tests/core/check_long.c; many 800 >lib/nets/short.c; many 801 >tests/numbers.txt
    : >lib/stray.c
    printf '#include <qwen/qwen.h>\n#include <qwen/ref.h>\n' >include/qwen/backend.h
    printf '#include <qwen/ref.h>\n#include "backends/cpu/cpu.h"\n#include "backends/cpu/vec.h"\n#include "files/store.h"\n' >lib/core/registry.c
    printf '#include <qwen/ref.h>\n#include "core/run_inside.h"\n#include "run.h"\n#include "nets/net.h"\n' >lib/core/run.c
    printf '#include "core/core.h"\n#include "nets/net.h"\n#include <png.h>\n#include <stdio.h>\n#include <immintrin.h>\n' >lib/files/store.c
    printf '#include "files/store.h"\n#include "files/json.h"\n#include "files/files.h"\n#include "core/run_inside.h"\n#include "../core/run.h"\n' >lib/nets/dit.c
    printf '# include <qwen/backend.h>\n  #  include "core/run.h"\n#include <jansson.h>\n#include <qwen/ref.h>\n' >reference/gemm.c
    printf '#include "cpu.h"\n#include "vec.h"\n#include <immintrin.h>\n#include <utf8proc.h>\n' >backends/cpu/gemm.c
    printf '#include "backends/cpu/cpu.h"\n#include "backends/cpu/vec.h"\n' >backends/onednn/gemm.c
    printf '#include "core/core.h"\n#include "core/run_inside.h"\n#define RUN "core/run.h"\n#include RUN\n' >conform/fill.c
    printf '#include <qwen/qwen.h>\n#include <qwen/backend.h>\n#include "gone.h"\n#include "find/find.h"\n#include <yaml.h>\n#include <qwen/gone.h>\n' >cli/main.c
    printf '#include "cli.h"\n#include "core/core.h"\n/* #include "core/core.h" */\n' >cli/find/find.c
    printf '#include <qwen/qwen.h>\n#include "lib/core/core.h"\n' >examples/draw.c
    printf '#include "core/run_inside.h"\n' >tests/core/check_run.c
    check_tree table.md | tee "$tmp/found" | sed '$d; s/: .*//' | LC_ALL=C sort >"$tmp/places"
    LC_ALL=C sort >"$tmp/expected" <<'END'
table.md
table.md
include/qwen/backend.h:2
lib/files/json.h
lib/nets/long.c
tests/core/check_long.c
lib/stray.c
lib/core/registry.c:3
lib/core/run.c:1
lib/core/run.c:4
lib/files/store.c:2
lib/files/store.c:3
lib/files/store.c:5
lib/nets/dit.c:2
lib/nets/dit.c:3
lib/nets/dit.c:4
lib/nets/dit.c:5
reference/gemm.c:2
reference/gemm.c:3
backends/cpu/gemm.c:4
backends/onednn/gemm.c:2
conform/fill.c:2
conform/fill.c:4
cli/main.c:2
cli/main.c:3
cli/main.c:6
cli/find/find.c:2
examples/draw.c:2
END
    cmp -s "$tmp/places" "$tmp/expected" && grep -q '^[1-9][0-9]* passed, 17 failed$' "$tmp/found" && return
    echo "check_includes.sh does not see the breaches of its own tree (< expected, > found):"
    diff "$tmp/expected" "$tmp/places"
    tail -n 1 "$tmp/found"
    exit 1
}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/includes.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
cd "${srcdir:-.}" || exit 99
(try_itself) || exit $?

check_tree doc/architecture.md >"$tmp/result"
cat "$tmp/result"
tail -n 1 "$tmp/result" | grep -q '^[1-9][0-9]* passed, 0 failed$'
