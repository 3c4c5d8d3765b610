#!/usr/bin/env python3
"""Turns a preprocessed CUDA file (stdin) into C++ for the emulation in emu.h (stdout).

    k<T><<<grid, block>>>(a, b)   a launch of a lambda that calls k<T> with copies of a, b
    __shared__ T x[N], y;         references into the block's arena
    extern __shared__ T x[];      a pointer to the block's dynamic shared memory
    asm("text" : out : in)        a call that interprets the text
    __cluster_dims__(n, 1, 1)     goes to the launches of the kernel whose name follows
"""
import re
import sys

text = sys.stdin.read()


def end_of_string(s, at):
    """Index of the quote that closes the one at `at`."""
    at += 1
    while s[at] != '"':
        at += 2 if s[at] == '\\' else 1
    return at


def closing(s, at):
    """Index behind the bracket that closes the one at `at`; strings are skipped."""
    depth = 0
    while True:
        c = s[at]
        if c == '"':
            at = end_of_string(s, at)
        elif c in '([{':
            depth += 1
        elif c in ')]}':
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1


def split(s, by):
    """s at the characters `by` outside of brackets and strings."""
    parts, depth, at, start = [], 0, 0, 0
    while at < len(s):
        c = s[at]
        if c == '"':
            at = end_of_string(s, at)
        elif c in '([{':
            depth += 1
        elif c in ')]}':
            depth -= 1
        elif c == by and depth == 0:
            parts.append(s[start:at])
            start = at + 1
        at += 1
    parts.append(s[start:])
    return parts


def lines(s):
    return '\n' * s.count('\n')


def assembly(s):
    found = re.compile(r'\basm\s*(?:volatile\s*)?\(')
    out, at = [], 0
    while (m := found.search(s, at)) is not None:
        end = closing(s, m.end() - 1)
        sections = split(s[m.end():end - 1], ':')
        operands = []
        for section, call in zip(sections[1:3], ('msa_emu_out', 'msa_emu_in')):
            for o in split(section, ','):
                if o.strip():
                    constraint, value = re.match(r'\s*"([^"]*)"\s*(\(.*\))\s*$', o, re.S).groups()
                    operands.append(call + ' ' + ' '.join(value.split()))
        program = ' '.join(sections[0].split('\n')).strip()
        out.append(s[at:m.start()])
        out.append('msa_emu_execute([]{ static const msa_emu_program *emu_p = msa_emu_parse(%s, __builtin_FILE(), '
                   '__builtin_LINE()); return emu_p; }(), {%s})' % (program, ', '.join(operands)))
        out.append(lines(s[m.start():end]))
        at = end
    out.append(s[at:])
    return ''.join(out)


def shared(s):
    s = re.sub(r'\bextern\s+__shared__\s+(?:__align__\((\d+)\)\s+)?(\w+)\s+(\w+)\[\]\s*;',
               lambda m: '%s *%s = (%s *)msa_emu_dynamic(%s);' %
               (m[2], m[3], m[2], m[1] or 'alignof(%s)' % m[2]), s)
    number = 0

    def declared(m):
        nonlocal number
        declarators = split(m[1], ',')
        kind, first, array = re.match(r'(.*?)(\w+)\s*((?:\[.*)?)$', declarators[0], re.S).groups()
        code = []
        for d in [first + array] + declarators[1:]:
            number += 1
            name = re.match(r'\s*(\w+)', d)[1]
            code.append('struct emu_shared_%d { %s %s; }; auto &%s = msa_emu_static<struct emu_shared_%d>()->%s;'
                        % (number, kind, d.strip(), name, number, name))
        return ' '.join(code) + lines(m[0])
    return re.sub(r'\b__shared__\s+([^;]+);', declared, s)


def clusters(s):
    """The cluster sizes of kernels by name; their attribute is taken out."""
    sizes = {}
    while (m := re.search(r'__cluster_dims__\s*\(', s)) is not None:
        end = closing(s, m.end() - 1)
        size = split(s[m.end():end - 1], ',')[0].strip()
        behind = re.sub(r'__launch_bounds__\s*\([^)]*\)', '', s[end:end + 400])
        sizes[re.match(r'[\s\w]*?(\w+)\s*\(', behind)[1]] = size
        s = s[:m.start()] + s[end:]
    return s, sizes


def launches(s, sizes):
    while (at := s.find('<<<')) >= 0:
        start = at
        while s[start - 1].isspace():
            start -= 1
        if s[start - 1] == '>':
            depth = 0
            while True:
                start -= 1
                depth += (s[start] == '>') - (s[start] == '<')
                if depth == 0:
                    break
        while s[start - 1].isalnum() or s[start - 1] == '_':
            start -= 1
        kernel = s[start:at].strip()
        shape_end = s.index('>>>', at)
        shape = s[at + 3:shape_end]
        opened = s.index('(', shape_end)
        end = closing(s, opened)
        given = s[opened + 1:end - 1].replace('__null', 'nullptr')
        size = sizes.get(re.match(r'\w+', kernel)[0])
        if size:
            shape += ', ' + size
        s = (s[:start] + 'msa_emu_launch(msa_emu_config(%s), [=](auto... emu_a) { %s(emu_a...); }, %s)'
             % (shape, kernel, given) + s[end:])
    return s


text = re.sub(r'^\s*#\s*pragma unroll.*$', '', text, flags=re.M)
text, cluster_sizes = clusters(text)
text = re.sub(r'__launch_bounds__\s*\([^)]*\)', '', text)
text = text.replace('__device__ __noinline__', '')
text = re.sub(r'\b(__device__|__host__|__global__|__grid_constant__)\b', '', text)
text = re.sub(r'\b__forceinline__\b', 'inline', text)
text = launches(text, cluster_sizes)
text = shared(text)
text = assembly(text)
sys.stdout.write(text)
