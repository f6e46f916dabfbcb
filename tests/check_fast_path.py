"""Gates the fast path: counts the library's instructions per operation (count_instructions) and compares
them with the committed table. Fails when a figure went up by more than the tolerance, when a name is
missing, or when a tight malloc(16)+free pair needs more than 36. A figure that went down is reported;
--update writes the table anew.
Usage: check_fast_path.py --library PATH --counter PROGRAM [--golden FILE] [--update]"""
import argparse
import json
import os
import subprocess
import sys

LIMIT = {'malloc16_free_tight': 36.0}
# Half an instruction: a refill that falls into the measured part more or less often is not a change of the
# path.
TOLERANCE = 0.5

HEADER = '''# User instructions inside the library per operation, release build with g++, single-stepped.
# Written by tests/check_fast_path.py --update; a change belongs into the commit that causes it.
'''


def read_golden(path):
    golden = {}
    with open(path, encoding='utf-8') as table:
        for line in table:
            if line.strip() and not line.startswith('#'):
                name, value = line.split()
                golden[name] = float(value)
    return golden


def write_golden(path, figures):
    with open(path, 'w', encoding='utf-8') as table:
        table.write(HEADER)
        for name, value in figures.items():
            table.write(f'{name:28} {value:8.1f}\n')


def compare(figures, golden):
    failed = 0
    for name in sorted(set(figures) | set(golden)):
        now, before = figures.get(name), golden.get(name)
        if now is None or before is None:
            word, failed = 'FAILED', failed + 1
        elif now > before + TOLERANCE or now > LIMIT.get(name, now):
            word, failed = 'FAILED', failed + 1
        else:
            word = 'lower' if now < before - TOLERANCE else 'ok'
        limit = f'  limit {LIMIT[name]}' if name in LIMIT else ''
        print(f'{word:8} {name:28} now {now}  golden {before}{limit}')
    return failed, len(set(figures) | set(golden))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--library', required=True)
    parser.add_argument('--counter', required=True)
    parser.add_argument('--golden', default=os.path.join(os.path.dirname(__file__), 'fast_path.golden'))
    parser.add_argument('--update', action='store_true')
    options = parser.parse_args()
    env = {k: v for k, v in os.environ.items() if k != 'LD_PRELOAD'}
    command = [options.counter, options.library]
    counted = subprocess.run(command, text=True, capture_output=True, env=env, timeout=300)
    if counted.returncode != 0:
        print(f'FAILED   count_instructions exits {counted.returncode}: {counted.stderr.strip()}')
        print('0 passed, 1 failed')
        return 1
    figures = json.loads(counted.stdout)
    if options.update:
        write_golden(options.golden, figures)
    failed, names = compare(figures, read_golden(options.golden))
    print(f'{names - failed} passed, {failed} failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
