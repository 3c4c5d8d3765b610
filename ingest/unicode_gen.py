#!/usr/bin/env python3
"""Writes the Unicode tables of ingest/unicode.h as a C header to stdout.

usage: unicode_gen.py FOLDER      FOLDER holds UnicodeData.txt, DerivedAge.txt,
       PropList.txt and DerivedNormalizationProps.txt (Debian: unicode-data)

Ids must not change with the Unicode version of the machine that builds, so the
versions are pinned to those of the Hugging Face tokenizers library (0.22, 0.23):
its regular expressions know Unicode 16, its Digits splitter 17, and its NFC
still 9. Any folder of version 15.0 or later gives the same tables: characters
are cut off by age, and those younger than 15.0 stand in this file.
"""
import sys

BASE_AGE = (15, 0)
NFC_AGE = (9, 0)
# Letters and numbers of Unicode 15.1 and 16.0
LETTERS_16 = """1C89-1C8A A7CB-A7CD A7DA-A7DC 105C0-105F3 10D4A-10D65 10D6F-10D85
10EC2-10EC4 11380-11389 1138B 1138E 11390-113B5 113B7 113D1 113D3 11BC0-11BE0 13460-143FA
16100-1611D 16D40-16D6C 18CFF 1E5D0-1E5ED 1E5F0 2EBF0-2EE5D"""
NUMBERS_16 = "10D40-10D49 116D0-116E3 11BF0-11BF9 16130-16139 16D70-16D79 1CCF0-1CCF9 1E5F1-1E5FA"
NUMBERS_17 = "11DE0-11DE9 16FF4-16FF6"

# as in unicode.h
LETTER, NUMBER, SPACE, DIGITS, COMPOSES, MARK = 1, 2, 3, 4, 8, 16
N_CODES = 0x110000
BLOCK = 128


def code_range(text):
    first, _, last = text.replace("..", "-").partition("-")
    return range(int(first, 16), int(last or first, 16) + 1)


def properties(path):
    """Yields (range, fields) of a property file."""
    with open(path, encoding="utf-8") as f:
        for line in f:
            fields = [x.strip() for x in line.split("#")[0].split(";")]
            if fields[0]:
                yield code_range(fields[0]), fields[1:]


def unicode_data(path):
    """Yields (range, category, combining class, canonical decomposition)."""
    first = None
    with open(path, encoding="utf-8") as f:
        for line in f:
            f = line.split(";")
            code = int(f[0], 16)
            if f[1].endswith("First>"):
                first = code
                continue
            start = first if f[1].endswith("Last>") else code
            parts = [] if f[5].startswith("<") else [int(x, 16) for x in f[5].split()]
            yield range(start, code + 1), f[2], int(f[3]), parts


def two_level(values):
    """Equal blocks are stored once: an index of blocks, and the blocks."""
    seen, index, data = {}, [], []
    for i in range(0, N_CODES, BLOCK):
        block = bytes(values[i:i + BLOCK])
        if block not in seen:
            seen[block] = len(seen)
            data.extend(block)
        index.append(seen[block])
    assert len(seen) <= 256
    return index, data


def array(storage, name, values):
    print("%s const uint8_t %s[%d] = {" % (storage, name, len(values)))
    for i in range(0, len(values), 24):
        print(",".join(map(str, values[i:i + 24])) + ",")
    print("};")


def main(folder):
    age = {}
    for codes, fields in properties(folder + "/DerivedAge.txt"):
        version = tuple(int(x) for x in fields[0].split("."))
        for c in codes:
            age[c] = version
    flags = bytearray(N_CODES)
    ccc = bytearray(N_CODES)
    decompositions, exclusions = [], set()
    for codes, category, combining, parts in unicode_data(folder + "/UnicodeData.txt"):
        for c in codes:
            if age[c] <= BASE_AGE and category[0] in "LN":
                flags[c] = LETTER if category[0] == "L" else NUMBER | DIGITS
            if age[c] <= NFC_AGE:
                ccc[c] = combining
                if combining:
                    flags[c] |= MARK
                if parts:
                    decompositions.append((c, parts[0], parts[1] if len(parts) > 1 else 0))
    for text, bits in ((LETTERS_16, LETTER), (NUMBERS_16, NUMBER | DIGITS), (NUMBERS_17, DIGITS)):
        for item in text.split():
            for c in code_range(item):
                flags[c] = flags[c] & (COMPOSES | MARK) | bits
    for codes, fields in properties(folder + "/PropList.txt"):
        if fields[0] == "White_Space":
            for c in codes:
                flags[c] |= SPACE
    for codes, fields in properties(folder + "/DerivedNormalizationProps.txt"):
        for c in codes:
            if age.get(c, (99,)) > NFC_AGE:
                continue
            if fields[0] == "NFC_QC":
                flags[c] |= COMPOSES
            elif fields[0] == "Full_Composition_Exclusion":
                exclusions.add(c)
    decompositions.sort()
    pairs = sorted((a, b, c) for c, a, b in decompositions if b and c not in exclusions)

    print("/* Made by ingest/unicode_gen.py. */")
    for name, values in (("msa_unicode_flags", flags), ("static msa_unicode_ccc", ccc)):
        storage, _, name = name.rpartition(" ")
        index, data = two_level(values)
        array(storage, name + "_index", index)
        array(storage, name + "_data", data)
    for name, rows in (("decompositions", decompositions), ("compositions", pairs)):
        print("static const uint32_t msa_unicode_%s[%d][3] = {" % (name, len(rows)))
        for row in rows:
            print("{%d,%d,%d}," % row)
        print("};")


main(sys.argv[1])
