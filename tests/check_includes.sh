#!/bin/sh
# check_includes.sh - the room rule: who may include whom, read off the #include lines.
#
#   cli, examples  -> qwen.h and their own folder
#   lib            -> lib; registry.c alone also names the built-in devices
#   reference      -> backend.h, tensor.h and its own folder
#   backends/X     -> backend.h, tensor.h, reference/ref.h and its own folder
#                     (cuda, hip, emu: also backends/gpu; onednn: also backends/cpu/cpu.h)
#   tests          -> everything
# Pictures and YAML are the command's business, SIMD and devices the backends'.
set -u
srcdir=${srcdir:-.}
rooms='lib reference cli examples backends'

# find_header DIR NAME: the path inside the tree of a quoted include, or "?" if it is nowhere.
find_header() {
    d=$1 n=$2
    while :; do
        case $n in
        ../*) n=${n#../}; case $d in */*) d=${d%/*} ;; *) d=. ;; esac ;;
        *) break ;;
        esac
    done
    for r in "$d" lib reference backends/cpu backends/gpu; do
        if [ -f "$r/$n" ]; then
            printf '%s\n' "$r/$n" | sed 's,^\./,,'
            return
        fi
    done
    echo '?'
}

# allowed FILE HEADER: may this file include this header of ours?
allowed() {
    own=${1%/*}
    case $1:$2 in
    lib/registry.c:reference/ref.h | lib/registry.c:backends/*/*.h) ;;
    lib/*:lib/*) ;;
    reference/*:lib/backend.h | reference/*:lib/tensor.h | reference/*:reference/*) ;;
    cli/*:lib/qwen.h | examples/*:lib/qwen.h) ;;
    cli/*:cli/* | examples/*:examples/*) ;;
    backends/*:lib/backend.h | backends/*:lib/tensor.h | backends/*:reference/ref.h) ;;
    backends/cuda/*:backends/gpu/* | backends/hip/*:backends/gpu/* | backends/emu/*:backends/gpu/*) ;;
    backends/onednn/*:backends/cpu/cpu.h) ;;
    backends/*:"$own"/*) ;;
    *) return 1 ;;
    esac
}

# allowed_system FILE NAME: may this file include <NAME>?
allowed_system() {
    case $1:$2 in
    lib/*:png.h | lib/*:jpeglib.h | lib/*:webp/* | lib/*:yaml.h) return 1 ;;
    reference/*:png.h | reference/*:jpeglib.h | reference/*:webp/* | reference/*:yaml.h) return 1 ;;
    reference/*:jansson.h | reference/*:utf8proc.h) return 1 ;;
    cli/*:utf8proc.h | examples/*:jansson.h | examples/*:utf8proc.h) return 1 ;;
    backends/*) ;;
    *:*intrin.h | *:arm_*.h | *:cuda*.h | *:cublas*.h | *:hip/* | *:hipblas* | *:dnnl* | *:oneapi/*) return 1 ;;
    esac
}

# check_file FILE: prints every breach as FILE:LINE: sentence.
check_file() {
    file=$1
    grep -nE '^[[:space:]]*#[[:space:]]*include' "$file" | while IFS= read -r text; do
        line=${text%%:*}
        text=${text#*include}
        case $text in
        *\"*\"*) name=${text#*\"}; name=${name%%\"*}; path=$(find_header "${file%/*}" "$name") ;;
        *\<*\>*) name=${text#*<}; name=${name%%>*}
            case $name in
            qwen.h | backend.h | tensor.h) path=lib/$name ;;
            qwen/*) path=lib/${name#qwen/} ;;
            *) path= ;;
            esac ;;
        *) path='?' name=$text ;;
        esac
        case $path in
        '')  allowed_system "$file" "$name" || echo "$file:$line: ${file%%/*} may not include <$name>" ;;
        '?') echo "$file:$line: no header of the tree is called \"$name\"" ;;
        *)   allowed "$file" "$path" || echo "$file:$line: ${file%%/*} may not include $path" ;;
        esac
    done
}

# check_tree: every file of the current folder's rooms; breaches on stdout.
check_tree() {
    for room in $rooms; do
        [ -d "$room" ] && find "$room" -type f -name '*.[ch]*' ! -name '*.o'
    done | grep -E '\.(c|h|cc|cpp|cu|cuh|hip)$' | sort | while IFS= read -r f; do
        check_file "$f"
    done
}

# The check itself first: a tree with six breaches, of which none may be missed.
tmp=$(mktemp -d "${TMPDIR:-/tmp}/includes.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/lib" "$tmp/reference" "$tmp/cli" "$tmp/backends/cpu" "$tmp/backends/onednn" &&
    : >"$tmp/lib/qwen.h" && : >"$tmp/lib/net.h" && : >"$tmp/lib/backend.h" && : >"$tmp/reference/ref.h" &&
    : >"$tmp/backends/cpu/vec.h" &&
    printf '#include "net.h"\n#include "ref.h"\n' >"$tmp/lib/store.c" &&
    printf '#include "ref.h"\n' >"$tmp/lib/registry.c" &&
    printf '# include "backend.h"\n#include "../lib/net.h"\n' >"$tmp/reference/gemm.c" &&
    printf '#include <qwen.h>\n#include "net.h"\n#include <utf8proc.h>\n' >"$tmp/cli/main.c" &&
    printf '#include "../cpu/vec.h"\n' >"$tmp/backends/onednn/onednn.c" &&
    printf '/* #include "ref.h"\n */\n  #include "gone.h"\n' >"$tmp/lib/op.c" || exit 99
found=$(cd "$tmp" && check_tree | sed 's/:[^:]*$//' | sort | tr '\n' ' ')
expected='backends/onednn/onednn.c:1 cli/main.c:2 cli/main.c:3 lib/op.c:3 lib/store.c:2 reference/gemm.c:2 '
if [ "$found" != "$expected" ]; then
    echo "check_includes.sh does not see what it should: expected $expected; found $found"
    exit 1
fi

cd "$srcdir" || exit 99
breaches=$(check_tree)
[ -z "$breaches" ] || printf '%s\n' "$breaches"
files=$(for room in $rooms; do [ -d "$room" ] && find "$room" -type f; done | grep -cE '\.(c|h|cc|cpp|cu|cuh|hip)$')
bad=$(printf '%s' "$breaches" | cut -d: -f1 | sort -u | grep -c .)
echo "$((files - bad)) passed, $bad failed"
[ "$bad" = 0 ] && [ "$files" -gt 0 ]
