"""Writes docs/options.md from src/api/options.def, the one table of options. With --check it compares instead
and exits with 1 when the document is out of date. Usage: options_doc.py [--check] [ROOT]"""
import pathlib
import re
import sys
import textwrap

UNITS = {'kKiB': 1 << 10, 'kMiB': 1 << 20, 'kGiB': 1 << 30, 'kTiB': 1 << 40}
WORDS = {'misuse': ['abort', 'warn', 'ignore'], 'paging': ['off', 'auto', 'uffd', 'kernel'],
         'codec': ['lz4', 'zstd'], 'victim': ['lru', 'clock', 's3fifo', 'fifo', 'oldest', 'largest']}
ENTRY = re.compile(r'^OPTION\((\w+), (\w+), ([^,]+), ([^,]+), ([^,]+),\s*((?:"(?:[^"\\]|\\.)*"\s*)+)\)', re.M)

INTRODUCTION = '''\
# Options

Generated from `src/api/options.def` by `tools/options_doc.py`; change the table, not this file.

Options are read once, before the first allocation, from the environment variable `GLEBE_OPTIONS`:

    GLEBE_OPTIONS=on_misuse=warn,purge_delay_ms=1000,reserve=64G

Entries are separated by commas, without spaces. A size is a number of bytes, or of the unit K, M, G or T
(powers of 1024) that follows it; a flag is 0 or 1; a text has no comma in it. When a name occurs several
times the last valid entry counts. An unknown name or a value that is malformed or out of its limits is
reported on standard error, and that entry is ignored. A set-user-id process does not read the variable.

A program asks for the values in force by `glebe_option_name` and `glebe_option_get` of
`include/glebe/glebe.h`.

| option | value | default | limits |
|---|---|---|---|
'''


def number(expression):
    product = 1
    for factor in expression.replace("'", '').split('*'):
        factor = factor.strip()
        product *= UNITS[factor] if factor in UNITS else int(factor)
    return product


def shown(kind, value):
    if kind in WORDS:
        return WORDS[kind][value]
    if kind in ('size', 'budget'):
        for shift, unit in ((40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')):
            if value >= 1 << shift and value % (1 << shift) == 0:
                return f'{value >> shift}{unit}'
    return str(value)


def parse(text):
    entries = []
    for kind, name, *limits, strings in ENTRY.findall(text):
        standard, lowest, highest = (number(limit) for limit in limits)
        help_text = ''.join(re.findall(r'"((?:[^"\\]|\\.)*)"', strings))
        entries.append((kind, name, standard, lowest, highest, help_text))
    if len(entries) != len(re.findall(r'^OPTION\(', text, re.M)):
        sys.exit('options_doc.py: an entry of options.def was not understood')
    return entries


def document(entries):
    lines = [INTRODUCTION]
    for kind, name, standard, lowest, highest, _ in entries:
        default = shown(kind, standard) if lowest <= standard <= highest else 'not set'
        limits = f'{shown(kind, lowest)} to {shown(kind, highest)}'
        if kind in WORDS:
            limits = ', '.join(WORDS[kind])
            kind = 'word'
        elif kind == 'budget':
            kind, limits = 'size or percentage', limits + ', or above 0% to 100%'
        elif kind == 'text':
            default, limits = 'not set', 'any, without a comma'
        lines.append(f'| `{name}` | {kind} | {default} | {limits} |\n')
    for _, name, _, _, _, help_text in entries:
        lines.append(f'\n## {name}\n\n' + textwrap.fill(help_text, 110) + '\n')
    return ''.join(lines)


def main():
    arguments = sys.argv[1:]
    check = '--check' in arguments
    roots = [argument for argument in arguments if argument != '--check']
    root = pathlib.Path(roots[0]) if roots else pathlib.Path(__file__).resolve().parent.parent
    target = root / 'docs' / 'options.md'
    text = document(parse((root / 'src' / 'api' / 'options.def').read_text(encoding='utf-8')))
    if not check:
        target.write_text(text, encoding='utf-8')
        return 0
    if not target.exists() or target.read_text(encoding='utf-8') != text:
        print(f'{target} is out of date: run tools/options_doc.py')
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
