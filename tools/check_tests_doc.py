#!/usr/bin/env python3
"""Every name in docs/tests.md begins the name of a unit test, and every path leads to a file.
Usage: check_tests_doc.py [ROOT]"""
import pathlib
import re
import sys


def test_names(root):
    for path in (root / 'tests').glob('*_test.cpp'):
        for case in re.finditer(r'TEST_CASE\(\s*((?:"[^"]*"\s*)+)', path.read_text(encoding='utf-8')):
            yield ''.join(re.findall(r'"([^"]*)"', case.group(1)))


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1])
    names = list(test_names(root))
    problems = []
    count = 0
    for row in (root / 'docs/tests.md').read_text(encoding='utf-8').splitlines():
        cells = row.split('|')
        if len(cells) < 5:
            continue
        for quoted in re.findall(r'`([^`]*)`', cells[3]):
            count += 1
            is_known = (root / quoted).exists() if '/' in quoted else any(n.startswith(quoted) for n in names)
            if not is_known:
                problems.append(f'docs/tests.md: no test or file is called {quoted}')
    print('\n'.join(problems) or f'tests.md: {count} names ok')
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
