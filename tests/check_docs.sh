#!/bin/sh
# check_docs.sh - files, folders and functions named in the documents exist; copies of examples equal their files.
#
# Also: files named in the comments of sources, and the first line of a source, which names the file itself.  The check
# tries itself first on a tree that names what it does not have.
set -u
passed=0 failed=0
ok()  { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "$*"; }

rooms='include lib reference backends conform cli tests testdata data examples doc m4'
code='c|h|cc|cpp|cu|cuh|hip|sh|mk|map|m4'

# words FILE...: "FILE WORD" for each name of a file or folder in the files, without the full stop of its sentence.
# Lines that include a system header are skipped, and the table of rooms, which names rooms before they exist.
words() {
    awk '
    /<!-- rooms -->/ { table = 1 }
    /<!-- \/rooms -->/ { table = 0 }
    table { next }
    /^[ \t]*#[ \t]*include[ \t]*</ { next }
    {
        line = $0
        while (match(line, /[A-Za-z0-9_.\/*{}<>$~:-]+/)) {
            word = substr(line, RSTART, RLENGTH); line = substr(line, RSTART + RLENGTH)
            sub(/[.:]+$/, "", word)
            if (word ~ /[*{}<>$~:]/ || word !~ /[.\/]/) continue
            if (!seen[FILENAME, word]++) print FILENAME, word
        }
    }' "$@"
}

# check_names: documents and comments of the tree in the current folder.
check_names() {
    roots=$(for room in $rooms; do [ -d "$room" ] && printf '%s|' "$room"; done)
    roots="(${roots%|})"
    find . -type f ! -path './.git/*' | sed 's,^\./,,' >"$tmp/tree.files"
    find $(for room in $rooms; do [ -d "$room" ] && echo "$room"; done) -type f 2>/dev/null | LC_ALL=C sort >"$tmp/files"
    sed 's,.*/,,' "$tmp/tree.files" | LC_ALL=C sort -u >"$tmp/names"

    # By path: a file, a folder, a header as it is included, or a file beside the document.  A file of
    # a backend may be named before the backend's folder exists.
    : >"$tmp/paths"
    words $documents $data_documents | grep -E " $roots/" >>"$tmp/paths"
    words $documents | grep -E " [a-z_]+/[A-Za-z0-9_/-]+\.($code|md|1)$" >>"$tmp/paths"
    sources=$(grep -E '^(include|lib|reference|backends|conform|cli|examples|tests)/.*\.(c|h)$' "$tmp/files")
    words $sources | grep -E " $roots/[A-Za-z0-9_/.-]+\.($code|md|1)$" >>"$tmp/paths"
    while read -r file path; do
        case $path in backends/?*) folder=${path#backends/}; [ -d "backends/${folder%%/*}" ] || continue ;; esac
        if [ -e "$path" ] || [ -f "lib/$path" ] || [ -f "cli/$path" ] || [ -f "include/$path" ] || [ -f "${file%/*}/$path" ]; then ok
        else bad "$file names $path, which does not exist"; fi
    done <<END
$(LC_ALL=C sort -u "$tmp/paths")
END

    # By name alone: a file somewhere in the tree; in a room's README, a file of the room or a header of the library.
    for document in $documents; do
        room=.; case $document in doc/*) ;; */README.md) room=${document%/README.md} ;; esac
        for name in $(words "$document" | sed 's/.* //' | grep -E "^[A-Za-z0-9_-]+\.($code|md|am|ac)$"); do
            # A file whose text, from its first line, the document itself shows; a project.
            if [ "$name" = llama.cpp ] || grep -qF "/* $name - " "$document"; then continue; fi
            if ! grep -qxF "$name" "$tmp/names"; then bad "$document names $name, which is nowhere in the tree"
            elif [ "$room" != . ] && ! grep -qE "^($room|lib|include|doc)/(.*/)?$name$" "$tmp/files" && [ ! -f "$name" ]; then
                bad "$document names $name, which is not in $room/"
            else ok; fi
        done
    done

    # FILE:FUNCTION in code quotes: the file has that function.
    for pair in $(grep -ohE '`[A-Za-z0-9_./-]+\.(c|h):[A-Za-z0-9_]+`' $documents | tr -d '`' | LC_ALL=C sort -u); do
        file=${pair%:*}
        if [ ! -f "$file" ]; then bad "$file:${pair##*:} is named in the documents, and there is no such file"
        elif grep -qE "(^|[^A-Za-z0-9_])${pair##*:}\(" "$file"; then ok
        else bad "$file has no function ${pair##*:}, which the documents name"; fi
    done

    # A source begins with its own name.
    for file in $sources; do
        if head -n 1 "$file" | grep -qF "/* ${file##*/} - "; then ok; else bad "$file: the first line does not name the file"; fi
    done
}

# A tree with one missing name of each kind, among names that exist.
try_itself() {
    mkdir -p "$tmp/tree" && cd "$tmp/tree" && mkdir -p lib/core include/qwen doc tests cli/find backends/cpu || exit 99
    documents='README.md doc/house.md lib/README.md' data_documents=
    printf '/* run.c - walks; see lib/core/run.h and doc/house.md. */\n#include <gone.h>\nint walk(void);\n' >lib/core/run.c
    printf '/* run.h - see doc/gone.md. */\n' >lib/core/run.h
    printf '/* old.h - a file that was moved. */\n' >include/qwen/qwen.h
    printf '/* main.c - begins. */\nint x = a/b.c;\n' >cli/main.c
    printf '# x\n' >tests/check.sh
    printf 'See lib/core/run.c, `core/run.h`, <qwen/qwen.h>, `lib/core`, `lib/core/gone.c`.\n`lib/walls/` are `core/gone.h`. `tests/*.sh`, cli/find.\n' >README.md
    printf '`run.c`, `gone.c`, check.sh; backends/cuda/gpu.h, `backends/cpu/gone.h`.\n<!-- rooms -->\n| lib/attic | | gone.h |\n<!-- /rooms -->\n`lost.c`\n`lib/core/run.c:walk`, `lib/core/run.c:wal` and `lib/core/gone.c:walk`.\n' >doc/house.md
    printf '`run.c`, `qwen.h`, `check.sh` and `own.c`:\n    /* own.c - shown here. */\n' >lib/README.md
    check_names | LC_ALL=C sort >"$tmp/found"
    LC_ALL=C sort >"$tmp/expected" <<'END'
README.md names core/gone.h, which does not exist
README.md names lib/core/gone.c, which does not exist
README.md names lib/walls/, which does not exist
doc/house.md names backends/cpu/gone.h, which does not exist
doc/house.md names gone.c, which is nowhere in the tree
doc/house.md names lost.c, which is nowhere in the tree
include/qwen/qwen.h: the first line does not name the file
lib/README.md names check.sh, which is not in lib/
lib/core/gone.c:walk is named in the documents, and there is no such file
lib/core/run.c has no function wal, which the documents name
lib/core/run.h names doc/gone.md, which does not exist
END
    cmp -s "$tmp/found" "$tmp/expected" && return
    echo "check_docs.sh does not see what its own tree lacks (< expected, > found):"
    diff "$tmp/expected" "$tmp/found"
    exit 1
}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/docs.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
cd "${srcdir:-.}" || exit 99
(try_itself) || exit $?

documents='README.md CONTRIBUTING.md '$(ls doc/*.md; find lib reference conform cli tests -name README.md)
data_documents=$(find testdata data -name '*.md')
check_names

# Functions and constants of ours, by name, in code quotes.
headers=$(find lib include reference conform -name '*.h')
for name in $(grep -ohE '`(qw|qwen|QW|QWEN)_[A-Za-z0-9_]+' $documents | tr -d '`' | sort -u); do
    case $name in
    *_) continue ;;                     # a family of names: qw_*
    QWEN_*) grep -qrE "\b$name\b" lib cli tests include conform Makefile.am && ok || bad "$name is named in the documents and nowhere else" ;;
    *) if grep -qE "\b$name\b" $headers || { stem=${name#qw_}; grep -qE "X\($stem\)" include/qwen/backend.h; }; then ok
       else bad "$name is named in the documents and in no header"; fi ;;
    esac
done

# The C example of a document is the file, to the letter.
for pair in README.md=examples/draw.c doc/backends.md=examples/backend/first.c; do
    if sed -n '/^```c$/,/^```$/p' "${pair%=*}" | sed '1d;$d' | cmp -s - "${pair#*=}"; then ok
    else bad "the C example in ${pair%=*} is not ${pair#*=}"; fi
done

echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 20 ]
