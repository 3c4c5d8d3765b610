#!/usr/bin/env bash
# Data flows forward: a folder includes only itself, base/ and what its row names.
# ingest/extract (the parsers) is included by nothing; parser libraries appear
# nowhere else; nothing includes jobs/.
set -eu
bad=0
check() { # folder, then what it may include
    local dir=$1; shift
    local allowed="^($(IFS='|'; echo "$*"))/"
    while IFS=: read -r file line text; do
        inc=$(sed 's/.*"\([^"]*\)".*/\1/' <<<"$text")
        if ! [[ $inc =~ $allowed ]]; then
            echo "$file:$line: $dir/ may not include $inc"
            bad=1
        fi
    done < <(grep -nE '^#include "[^"]*/' "$dir"/*.[ch] /dev/null || true)
}
check base base
check kernels base kernels
check ingest base ingest
check ingest/extract base ingest
check engine base kernels engine ingest/tokenizer.h ingest/template.h ingest
check models base kernels engine models
check jobs base kernels engine ingest jobs
if grep -nE '#include "ingest/(extract|worker|corpus|run|walk|passage)' engine/*.[ch]; then
    echo "engine/ may use the tokenizer and templates of ingest/, nothing else"; bad=1
fi
if grep -nE '#include <(poppler|archive|glib)' base/*.[ch] ingest/*.[ch] engine/*.[ch] kernels/*.[ch] jobs/*.[ch]; then
    echo "parser libraries belong to ingest/extract"; bad=1
fi
[ $bad -eq 0 ] && echo "check-deps: folders include only what lies before them"
exit $bad
