#!/bin/sh
# Writes C source that holds the schemas named as arguments, as byte arrays.
#   schemas/embed.sh schemas/*.schema.json > schemas_embedded.c
set -eu
echo '#include "jobs/schema.h"'
for f in "$@"; do
    name=$(basename "$f" .schema.json)
    echo "static const unsigned char text_$name[] = {"
    od -An -v -tx1 "$f" | sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g'
    echo "0};"
done
echo 'const msa_schema_text msa_schema_texts[] = {'
for f in "$@"; do
    name=$(basename "$f" .schema.json)
    echo "    {\"$name\", text_$name},"
done
echo '    {0, 0}};'
