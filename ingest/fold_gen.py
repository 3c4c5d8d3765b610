#!/usr/bin/env python3
"""Writes the table of ingest/fold.h as a C header to stdout: NFKC_Casefold of every
character that it changes.

usage: fold_gen.py FOLDER      FOLDER holds DerivedAge.txt and
       DerivedNormalizationProps.txt (Debian: unicode-data)

Characters younger than Unicode 15.0 stay as they are, so that the words of a text do
not depend on the machine that builds."""
import sys

AGE = (15, 0)


def properties(path):
    """Yields (first, last, fields) of a property file."""
    with open(path, encoding="utf-8") as f:
        for line in f:
            fields = [x.strip() for x in line.split("#")[0].split(";")]
            if fields[0]:
                first, _, last = fields[0].partition("..")
                yield int(first, 16), int(last or first, 16), fields[1:]


def main(folder):
    young = set()
    for first, last, fields in properties(folder + "/DerivedAge.txt"):
        if tuple(int(x) for x in fields[0].split(".")) > AGE:
            young.update(range(first, last + 1))
    rows, pool = [], []
    for first, last, fields in properties(folder + "/DerivedNormalizationProps.txt"):
        if fields[0] != "NFKC_CF" or first in young:
            continue
        to = [int(x, 16) for x in fields[1].split()]
        rows.append((first, last, len(pool), len(to)))
        pool += to
    rows.sort()
    print("/* Made by ingest/fold_gen.py. */")
    print("static const struct { uint32_t first, last; uint16_t at, n; } folds[%d] = {" % len(rows))
    for row in rows:
        print("{%d,%d,%d,%d}," % row)
    print("};\nstatic const uint32_t folded[%d] = {" % len(pool))
    for i in range(0, len(pool), 24):
        print(",".join(map(str, pool[i:i + 24])) + ",")
    print("};")


main(sys.argv[1])
