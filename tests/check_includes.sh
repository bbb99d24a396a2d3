#!/bin/sh
# check_includes.sh - the room rule: who may include whom, read off the #include lines.
#
# A room of lib/ includes rooms before it in the list; reference/ and backends/ only <qwen/...> and
# their own; cli/ and examples/ only <qwen/qwen.h> and their own.  cli/find and cli/media include cli.h
# and their own folder; their faces are find.h and media.h.
set -u
cd "${srcdir:-.}" || exit 99
find lib reference conform cli examples include -name '*.[ch]' | xargs grep -nE '^[[:space:]]*#[[:space:]]*include' |
awk -F: '
    BEGIN { n = split("core files host weights nets pipeline api", r, " "); for (i = 1; i <= n; i++) order[r[i]] = i }
    function bad(why) { print $1 ":" $2 ": " why; failed++ }
    {
        files[$1] = 1
        name = $3; system_header = name ~ /</
        sub(/^[^<"]*[<"]/, "", name); sub(/[>"].*/, "", name)
        split($1, p, "/"); split(name, t, "/")
        if (p[1] == "lib") {
            if (name ~ /^(png|jpeglib|yaml)\.h$|^webp\//) bad("pictures and YAML are the business of cli/")
            if (name == "qwen/ref.h" && $1 != "lib/core/registry.c") bad("only registry.c names a device")
            if (!system_header && t[1] in order && order[t[1]] > order[p[2]]) bad("a room above: " name)
        }
        if (p[1] == "reference" && !system_header && name !~ /^(ref|rows)\.h$/) bad("outside the room: " name)
        if (p[1] ~ /^(cli|examples)$/) {
            if (name ~ /^qwen\// && name != "qwen/qwen.h") bad("more than qwen.h: " name)
            if (t[1] in order) bad("the inside of the library: " name)
        }
        if (p[1] == "cli" && !system_header) {
            home = p[2] ~ /\./ ? "" : p[2]; room = t[2] == "" ? "" : t[1]
            if (room != "" && home != room && name != "find/find.h" && name != "media/media.h") bad("inside of a room: " name)
            if (home != "" && room != home && name != "cli.h") bad("outside the room: " name)
        }
        if (p[1] == "include" && !system_header) bad("outside the room: " name)
    }
    END { for (f in files) all++; print all " passed, " failed + 0 " failed"; exit failed > 0 }'
