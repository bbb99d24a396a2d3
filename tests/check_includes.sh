#!/bin/sh
# check_includes.sh - who may include whom: the #include lines against the table of rooms in doc/architecture.md.
#
# Also: a face has 150 lines at most, a file 800.  The check tries itself first on a tree with breaches.
set -u

# check_tree TABLE: every file of the current folder's rooms; "FILE:LINE: sentence" a breach, then a count.
check_tree() {
    find include lib reference backends conform cli examples -type f 2>/dev/null |
    grep -E '\.(c|h|cc|cpp|cu|cuh|hip)$' | LC_ALL=C sort >"$tmp/files"
    xargs grep -nHE '^[[:space:]]*#[[:space:]]*include' <"$tmp/files" >"$tmp/includes"
    xargs wc -l <"$tmp/files" | awk '$2 != "total"' >"$tmp/lines"
    awk -v table="$1" -v lines="$tmp/lines" '
    function bad(why) { print at ": " why; if (!(file in failed)) failures++; failed[file] = 1 }
    # The room of a path: the longest room that begins it.
    function room_of(path,   r, best) {
        best = ""
        for (r in may) if (index(path, r "/") == 1 && length(r) > length(best)) best = r
        return best
    }
    function has(list, word) { return index(" " list " ", " " word " ") > 0 }
    # The path of an include inside the tree, or "" for one that is not of the tree.
    function resolve(name, own,   folder) {
        if (name ~ /^qwen\//) return "include/" name
        folder = file; sub(/\/[^\/]*$/, "", folder)
        if ((folder "/" name) in exists) return folder "/" name
        if (("lib/" name) in exists) return "lib/" name
        if (name in exists) return name
        if (("cli/" name) in exists && own ~ /^cli/) return "cli/" name
        return ""
    }
    function system_header(name, own) {
        if (name ~ /^(png|jpeglib|jerror|yaml)\.h$|^webp\// && own !~ /^cli/) bad("<" name "> belongs to cli/")
        if (name ~ /^(jansson|utf8proc)\.h$/ && own !~ /^(lib|cli|conform)/) bad("<" name "> belongs to lib/ and cli/")
        if (name == "utf8proc.h" && own !~ /^lib/) bad("<utf8proc.h> belongs to lib/")
        if (name ~ /intrin\.h$|^arm_|^cuda|^cublas|^hip|^dnnl|^oneapi/ && own !~ /^backends/) bad("<" name "> belongs to backends/")
    }
    BEGIN {
        while ((getline line <table) > 0) {
            if (line ~ /<!-- rooms -->/) inside = 1
            if (line ~ /<!-- \/rooms -->/) inside = 0
            if (!inside || split(line, c, "|") < 4 || c[2] ~ /room|---/) continue
            gsub(/^ +| +$/, "", c[2]); gsub(/^ +| +$/, "", c[3]); gsub(/^ +| +$/, "", c[4])
            may[c[2]] = c[3]; faces[c[2]] = c[4]; rooms++
        }
        if (!rooms) { print table ": no table of rooms"; exit 1 }
        while ((getline line <lines) > 0) { split(line, c, " "); exists[c[2]] = c[1] }
        for (file in exists) {
            at = file; all++; own = room_of(file); name = file; sub(/.*\//, "", name)
            if (own == "") bad("is in no room of the table")
            if (exists[file] > 800) bad(exists[file] " lines, 800 are the most")
            if (file == "lib/pipeline/pipeline.h") continue
            if (own ~ /^lib/ && has(faces[own], name) && exists[file] > 150) bad("a face of " exists[file] " lines, 150 are the most")
        }
    }
    {
        split($0, c, ":"); file = c[1]; at = c[1] ":" c[2]; own = room_of(file)
        name = $0; quoted = name !~ /include[[:space:]]*</
        sub(/^[^<"]*[<"]/, "", name); sub(/[>"].*/, "", name)
        path = resolve(name, own)
        if (path == "") {
            if (quoted) bad("no header of the tree is called \"" name "\"")
            else system_header(name, own)
            next
        }
        if (!(path in exists)) { bad("no header of the tree is called <" name ">"); next }
        to = room_of(path); base = path; sub(/.*\//, "", base)
        registry = file == "lib/core/registry.c"
        if (path == "include/qwen/ref.h" && own ~ /^(lib|conform)/ && !registry && own != "conform") bad("only registry.c names a built-in device")
        if (to == own) next
        if (registry && to ~ /^backends/ && has(faces[to], base)) next
        if (to == "include/qwen") {
            if (!has(may[own], "include") && !(has(may[own], "qwen.h") && base == "qwen.h")) bad(own " may not include <" name ">")
            next
        }
        if (!has(may[own], to)) bad(own " may not include " path)
        else if (!has(faces[to], base)) bad(path " is no face of " to)
    }
    END { print all - failures " passed, " failures + 0 " failed" }' "$tmp/includes"
}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/includes.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
cd "${srcdir:-.}" || exit 99
table=$(pwd)/doc/architecture.md

# The check itself first: a tree with breaches, of which none may be missed.
mkdir -p "$tmp/tree" && (
    cd "$tmp/tree" && mkdir -p include/qwen lib/core lib/files lib/nets reference cli examples && cd include/qwen &&
    : >qwen.h && : >backend.h && : >tensor.h && : >ref.h && cd ../.. &&
    : >lib/core/core.h && : >lib/core/run.h && : >lib/files/store.h && : >lib/files/files.h && : >lib/nets/net.h &&
    awk 'BEGIN { for (i = 0; i < 151; i++) print "" }' >lib/files/json.h &&
    awk 'BEGIN { for (i = 0; i < 801; i++) print "" }' >lib/nets/long.c &&
    printf '#include <qwen/ref.h>\n' >lib/core/registry.c &&
    printf '#include <qwen/ref.h>\n#include "files/store.h"\n' >lib/core/run.c &&
    printf '#include "core/core.h"\n#include "nets/net.h"\n#include <png.h>\n' >lib/files/store.c &&
    printf '#include "files/store.h"\n#include "files/files.h"\n' >lib/nets/dit.c &&
    printf '# include <qwen/backend.h>\n#include "core/run.h"\n#include <jansson.h>\n' >reference/gemm.c &&
    printf '#include <qwen/qwen.h>\n#include <qwen/tensor.h>\n#include "gone.h"\n' >cli/main.c) || exit 99
found=$(cd "$tmp/tree" && check_tree "$table" | sed '$d; s/: .*//' | LC_ALL=C sort | tr '\n' ' ')
expected='cli/main.c:2 cli/main.c:3 lib/core/run.c:1 lib/core/run.c:2 lib/files/json.h lib/files/store.c:2 lib/files/store.c:3 lib/nets/dit.c:2 lib/nets/long.c reference/gemm.c:2 reference/gemm.c:3 '
if [ "$found" != "$expected" ]; then
    echo "check_includes.sh misses breaches of its own tree: expected $expected; found $found"
    exit 1
fi

check_tree "$table" >"$tmp/result"
cat "$tmp/result"
tail -n 1 "$tmp/result" | grep -q '^[1-9][0-9]* passed, 0 failed$'
