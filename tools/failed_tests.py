#!/usr/bin/env python3
"""Prints, for each test that failed in a run of meson, its name, how it ended and the last lines of its
output, from the testlog.json that meson leaves behind. Used by tools/check for the end of its own output,
because of a remote log often only the end is seen. Prints nothing when no test failed.
"""
import argparse
import json

LINES = 40
COLUMNS = 400  # of a line; the command lines of compilers are long


def failed_tests(path):
    """The records of the tests that failed. A record that was cut off by a time limit is passed over."""
    found = []
    with open(path, encoding='utf-8', errors='replace') as log:
        for line in log:
            try:
                test = json.loads(line)
            except ValueError:
                continue
            if test['result'] in ('FAIL', 'TIMEOUT', 'ERROR', 'INTERRUPT', 'UNEXPECTEDPASS'):
                found.append(test)
    return found


def last_lines(text):
    return [line[:COLUMNS] for line in text.rstrip('\n').split('\n')[-LINES:]] if text.strip() else []


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('log', help='path of testlog.json')
    parser.add_argument('--stage', required=True, help='named in front of each test')
    options = parser.parse_args()
    for test in failed_tests(options.log):
        print(f'\n-- {options.stage}: {test["name"]}: {test["result"]}, exit status {test["returncode"]}, '
              f'{test["duration"]:.1f} s')
        shown = last_lines(test.get('stdout', '')) + last_lines(test.get('stderr', ''))
        print('\n'.join(shown or ['(no output)']))


if __name__ == '__main__':
    main()
