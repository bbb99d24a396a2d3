#!/bin/sh
# check_circles.sh - no two files need each other in a circle: undefined symbols of object files against the files that
# define them.
#
#   check_circles.sh           circles in lib/, cli/ and conform/ of the build in the current folder; each edge of a
#                              circle is printed with a symbol as the witness
#   check_circles.sh --rooms   lines of each room, and how many symbols each room takes from each other one
set -u

# graph FILE...: "FROM TO SYMBOL" for each symbol that one object takes from another.
graph() {
    for o in "$@"; do
        n=$(printf '%s' "$o" | sed 's,\.libs/,,; s,/[a-z_]*_la-,/,; s,/qwen_[a-z]*-,/,; s,\.o$,.c,')
        nm -g "$o" 2>/dev/null | awk -v n="$n" 'NF == 2 && $1 == "U" { print "U", $2, n } NF == 3 && $2 ~ /^[TDBRVWC]$/ { print "T", $3, n }'
    done | awk '
        $1 == "T" && !($2 in home) { home[$2] = $3 }
        $1 == "U" { n++; symbol[n] = $2; user[n] = $3 }
        END { for (i = 1; i <= n; i++) if (symbol[i] in home && home[symbol[i]] != user[i]) print user[i], home[symbol[i]], symbol[i] }'
}

# circles: the edges on standard input that lie on a circle.  Files that nobody needs, or that need nobody, are taken
# away until none is left; what remains and can come back to itself is a circle.
circles() {
    awk '
    { e++; a[e] = $1; b[e] = $2; s[e] = $3; node[$1]; node[$2] }
    END {
        do {
            gone = 0
            for (v in node) { in_[v] = 0; out[v] = 0 }
            for (i = 1; i <= e; i++) if (a[i] in node && b[i] in node) { out[a[i]]++; in_[b[i]]++ }
            for (v in node) if (!in_[v] || !out[v]) { delete node[v]; gone = 1 }
        } while (gone)
        for (v in node) reach[v, v] = 1
        do {
            grown = 0
            for (i = 1; i <= e; i++) if (a[i] in node && b[i] in node)
                for (v in node) if ((b[i], v) in reach && !((a[i], v) in reach)) { reach[a[i], v] = 1; grown = 1 }
        } while (grown)
        for (i = 1; i <= e; i++)
            if (a[i] in node && b[i] in node && (b[i], a[i]) in reach && !seen[a[i], b[i]]++) print a[i], "->", b[i], s[i]
    }'
}

objects() { # objects ROOM: one object for each file, those of the shared build first; not libqwen-backend.a's copies
    find "$1" -name '*.o' 2>/dev/null | LC_ALL=C sort -r | awk '
        { k = $0; sub(/\.libs\//, "", k); if ($0 ~ /qwen_conform-main|-main\.o$|libqwen_backend_a-/) next; if (!(k in seen)) { seen[k]; print } }'
}

# The check itself first: three files in a circle, a fourth beside it.
self=$(printf 'a b f\nb c g\nc a h\nd a f\n' | circles | LC_ALL=C sort | tr '\n' ';')
if [ "$self" != 'a -> b f;b -> c g;c -> a h;' ] || [ -n "$(printf 'a b f\nb c g\na c h\n' | circles)" ]; then
    echo "check_circles.sh does not see the circle of its own example: $self"
    exit 1
fi

command -v nm >/dev/null 2>&1 || { echo "no nm: skipped"; exit 77; }
[ -n "$(objects lib)" ] || { echo "no object files in the current folder: skipped"; exit 77; }

if [ "${1:-}" = --rooms ]; then
    (cd "${srcdir:-.}" && for r in include/qwen lib/core lib/files lib/host lib/weights lib/nets lib/pipeline lib/api reference \
        backends/* conform cli cli/find cli/media; do
        [ -d "$r" ] && printf '%6d %s\n' "$(cat "$r"/*.[ch] | wc -l)" "$r"
    done)
    graph $(objects lib; objects reference) | awk '
        { sub(/\/[^\/]*$/, "", $1); sub(/\/[^\/]*$/, "", $2); if ($1 != $2 && !s[$1, $2, $3]++) n[$1 " -> " $2]++ }
        END { for (k in n) printf "%6d %s\n", n[k], k }' | sort -k2
    exit 0
fi

passed=0 failed=0
for room in lib cli conform; do
    list=$(objects $room)
    [ -n "$list" ] || continue
    found=$(graph $list | circles)
    if [ -z "$found" ]; then passed=$((passed + 1))
    else failed=$((failed + 1)); echo "a circle in $room:"; printf '%s\n' "$found"; fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
