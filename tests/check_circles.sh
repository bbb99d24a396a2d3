#!/bin/sh
# check_circles.sh - no files use each other's symbols in a circle: undefined symbols of objects against the files that
# define them.
#
#   check_circles.sh           the circles among the objects of the build in the current folder; each edge of a circle
#                              is printed with one symbol as the witness
#   check_circles.sh --rooms   lines and files of each room, and how many symbols each room takes from each other one
#
# lib/, reference/ and backends/ are one group, since one library holds them; cli/ and conform/ are a group each.  The
# check tries itself first on objects with circles.  Exit status: 0 none, 1 a circle, 77 no nm, compiler or objects.
set -u

skip() { echo "check_circles.sh: $*: skipped"; exit 77; }

# objects FOLDER...: "OBJECT SOURCE" for every object under the folders of the build.  libtool and automake put a
# prefix before the name (lib/core/.libs/libcore_la-run.o is of lib/core/run.c).  An object whose source is gone is
# left from an earlier build and is dropped.
objects() {
    for folder in "$@"; do [ -d "$folder" ] && find "$folder" -name '*.o'; done | LC_ALL=C sort | awk -v sources="$tmp/sources" '
        BEGIN { while ((getline line <sources) > 0) { stem = line; sub(/\.[a-z]*$/, "", stem); source[stem] = line } }
        {
            path = $0; sub(/\.libs\//, "", path); sub(/\.o$/, "", path)
            folder = path; sub(/[^\/]*$/, "", folder); name = substr(path, length(folder) + 1)
            while (!((folder name) in source) && (dash = index(name, "-"))) name = substr(name, dash + 1)
            if ((folder name) in source) print $0, source[folder name]
        }'
}

# edges FOLDER...: "FROM TO SYMBOL" for each symbol that a source takes from another one of the folders.  A symbol that
# several sources define (main, what a sanitizer adds to each object) is no edge.  An object in which nm finds no symbol
# that it defines goes to $tmp/blind.
edges() {
    : >"$tmp/blind"
    objects "$@" >"$tmp/objects"
    [ -s "$tmp/objects" ] || return 0
    cut -d' ' -f1 "$tmp/objects" | xargs $nm -A -P -g | awk -v objects="$tmp/objects" -v blind="$tmp/blind" '
        BEGIN { while ((getline line <objects) > 0) { split(line, c, " "); source[c[1]] = c[2] } }
        {
            object = $1; sub(/:$/, "", object); file = source[object]
            if ($3 == "U" || $3 == "w" || $3 == "v") { n++; user[n] = file; wanted[n] = $2 }
            else {
                defines[object] = 1
                if (!($2 in home)) home[$2] = file
                else if (home[$2] != file) home[$2] = "several"
            }
        }
        END {
            for (object in source) if (!(object in defines)) print object " has no symbol that nm reads" >blind
            for (i = 1; i <= n; i++) {
                to = home[wanted[i]]
                if (to != "" && to != "several" && to != user[i] && !seen[user[i], wanted[i]]++) print user[i], to, wanted[i]
            }
        }' | LC_ALL=C sort
}

# circles: the strongly connected components of more than one file among the edges on standard input (Tarjan), each
# with its edges.
circles() {
    awk '
    function visit(v,   i, w) {
        number[v] = low[v] = ++count; stack[++top] = v; open[v] = 1
        for (i = 1; i <= degree[v]; i++) {
            w = follow[v, i]
            if (!(w in number)) { visit(w); if (low[w] < low[v]) low[v] = low[w] }
            else if (open[w] && number[w] < low[v]) low[v] = number[w]
        }
        if (low[v] != number[v]) return
        components++
        do { w = stack[top--]; open[w] = 0; component[w] = components; size[components]++ } while (w != v)
    }
    ($1, $2) in witness { next }
    { witness[$1, $2] = $3; follow[$1, ++degree[$1]] = $2; from[++n] = $1; to[n] = $2 }
    END {
        for (i = 1; i <= n; i++) if (!(from[i] in number)) visit(from[i])
        for (i = 1; i <= n; i++) {
            c = component[from[i]]
            if (c == component[to[i]]) lines[c] = lines[c] "    " from[i] " -> " to[i] "  " witness[from[i], to[i]] "\n"
        }
        for (c = 1; c <= components; c++) if (size[c] > 1) printf "a circle of %d files:\n%s", size[c], lines[c]
    }'
}

# check_build SOURCES: the groups of the build in the current folder against the sources in the folder SOURCES.
check_build() {
    passed=0 failed=0
    for group in 'lib reference backends' cli conform; do
        (cd "$1" && for folder in $group; do
            [ -d "$folder" ] && find "$folder" -type f -name '*.c*'
        done) | grep -E '\.(c|cc|cpp|cu)$' >"$tmp/sources"
        [ -s "$tmp/sources" ] || continue
        edges $group >"$tmp/edges"
        # A source without an object cannot be checked; a backend and the mutants may be left out of a build.
        { cut -d' ' -f2 "$tmp/objects"; echo; cat "$tmp/sources"; } |
            awk '/^$/ { rest = 1; next } !rest { seen[$1] = 1; next } !($1 in seen) && !/^(backends|conform\/mutants)\// { print $1 " has no object" }' >"$tmp/result"
        LC_ALL=C sort "$tmp/blind" >>"$tmp/result"
        circles <"$tmp/edges" >>"$tmp/result"
        cat "$tmp/result"
        if [ -s "$tmp/result" ]; then failed=$((failed + 1)); else passed=$((passed + 1)); fi
    done
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}

# A build with a circle of three files over two rooms, a circle of two with a table of functions in it, files that only
# use them, a static function with a used name, a file that is not built, an object that defines nothing, and an object
# without a source that would close one circle more.
try_itself() {
    mkdir -p "$tmp/tree/lib/core/.libs" "$tmp/tree/lib/files" "$tmp/tree/cli" && cd "$tmp/tree" || exit 99
    compile() { # compile SOURCE OBJECT TEXT
        printf '%s\n' "$3" >"$1" && ${CC:-cc} -c -o "$2" "$1" 2>/dev/null || skip "no C compiler to try itself with"
    }
    compile lib/core/a.c lib/core/.libs/libcore_la-a.o 'int b(void); int a(void); int a(void) { return b(); }'
    compile lib/files/b.c lib/files/libcore_a-b.o 'int c(void); int b(void); int b(void) { return c(); }'
    compile lib/core/c.c lib/core/c.o 'int a(void); int c(void); int c(void) { return a(); }'
    compile lib/core/d.c lib/core/d.o 'int a(void); int old(void); int d(void); int d(void) { return a() + old(); }'
    compile lib/core/e-f.c lib/core/.libs/libcore_la-e-f.o 'int g(void); int (*const table[])(void) = {g};'
    compile lib/core/g.c lib/core/g.o 'extern int (*const table[])(void); int g(void); int g(void) { return table[0] != g; }'
    compile lib/core/h.c lib/core/h.o 'int d(void); static int i(void) { return 1; } int h(void); int h(void) { return d() + i(); }'
    compile lib/core/i.c lib/core/i.o 'int h(void); int i(void); int i(void) { return h(); }'
    compile old.c lib/core/libcore_la-old.o 'int h(void); int old(void); int old(void) { return h(); }'
    compile cli/one.c cli/qwen_image-one.o 'int two(void); int main(void); int main(void) { return two(); }'
    compile cli/two.c cli/qwen_image-two.o 'int two(void); int two(void) { return 2; }'
    compile lib/core/own.c lib/core/own.o 'static int own(void); static int (*const one)(void) = own; static int own(void) { return one != 0; }'
    : >lib/core/unbuilt.c
    check_build . >"$tmp/found"
    status=$?
    cat >"$tmp/expected" <<'END'
lib/core/unbuilt.c has no object
lib/core/own.o has no symbol that nm reads
a circle of 3 files:
    lib/core/a.c -> lib/files/b.c  b
    lib/core/c.c -> lib/core/a.c  a
    lib/files/b.c -> lib/core/c.c  c
a circle of 2 files:
    lib/core/e-f.c -> lib/core/g.c  g
    lib/core/g.c -> lib/core/e-f.c  table
1 passed, 1 failed
END
    [ "$status" = 1 ] && sed 's/  _/  /' "$tmp/found" | cmp -s - "$tmp/expected" && return
    echo "check_circles.sh does not see the circles of its own tree; it says (status $status):"
    cat "$tmp/found"
    exit 1
}

# rooms SOURCES: what --rooms prints.
rooms() {
    echo ' lines files room'
    (cd "$1" && for room in include/qwen lib/* reference backends/* conform cli cli/*; do
        [ -d "$room" ] || continue
        set -- $(find "$room" -type f -name '*.[ch]' ! -path "$room/*/*")
        [ $# -gt 0 ] && printf '%6d %5d %s\n' "$(cat "$@" | wc -l)" $# "$room"
    done)
    (cd "$1" && find lib reference backends conform cli -name '*.c' 2>/dev/null) >"$tmp/sources"
    echo 'symbols from -> to'
    edges lib reference backends conform cli | awk '
        { sub(/\/[^\/]*$/, "", $1); sub(/\/[^\/]*$/, "", $2) }
        $1 != $2 && !seen[$1, $2, $3]++ { n[$1 " -> " $2]++ }
        END { for (k in n) printf "%7d %s\n", n[k], k }' | LC_ALL=C sort -k2
}

nm=${NM:-nm}
sources=$(cd "${srcdir:-.}" && pwd) || exit 99
tmp=$(mktemp -d "${TMPDIR:-/tmp}/circles.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
command -v ${nm%% *} >/dev/null 2>&1 || skip "no nm"
first=$(find lib -name '*.o' 2>/dev/null | head -n 1)
[ -n "$first" ] || skip "no objects in lib/ of the current folder"
# Objects for link-time optimization hold no symbols of their own.
case $($nm -P -g "$first" 2>&1) in '' | *__gnu_lto_slim* | *'not recognized'*) skip "nm does not read $first" ;; esac

(try_itself) || exit $?
if [ "${1:-}" = --rooms ]; then rooms "$sources"; else check_build "$sources"; fi
