"""Shared by the drivers that test the paging tier: options, running a program with a budget, and the numbers
that the library leaves behind."""
import glob
import json
import os
import re
import tempfile

import harness

MODES = {0: 'off', 1: 'uffd', 2: 'kernel'}


def options_text(memory=None, directory=None, codec=None, mode='auto', more=()):
    entries = [f'paging={mode}']
    if memory:
        entries.append(f'memory={memory}')
    if directory:
        entries.append(f'page_directory={directory}')
    if codec:
        entries.append(f'page_codec={codec}')
    return ','.join(entries + list(more))


class Paged:
    """The outcome of a run and the sum of the statistics over its processes."""

    def __init__(self, outcome, rows):
        self.outcome, self.rows = outcome, rows

    def number(self, name):
        return sum(row.get(name, 0) for row in self.rows)

    def mode(self):
        return MODES.get(max((row.get('paging_mode', 0) for row in self.rows), default=0))

    def wrong_bytes(self):
        return b'WRONG BYTES' in self.outcome.err

    def traffic(self):
        return f'{self.mode()}, {self.number("paging_page_outs")} pages out, ' \
               f'{self.number("paging_page_ins")} in, {self.number("paging_faults")} faults'


def run(command, library, text, timeout=300, extra=None, **more):
    with tempfile.TemporaryDirectory(prefix='glebe-stats-') as folder:
        os.chmod(folder, 0o1777)
        environment = {'GLEBE_OPTIONS': f'{text},stats_file={folder}/%p.json', **(extra or {})}
        outcome = harness.run(command, library, timeout, environment, **more)
        rows = []
        for path in sorted(glob.glob(os.path.join(folder, '*.json'))):
            with open(path, encoding='utf-8') as file:
                try:
                    rows.append(json.load(file))
                except ValueError:
                    continue  # the process was killed while it wrote
        return Paged(outcome, rows)


def mode_here(library):
    """The mode that the library chooses on this machine for this user, and what it says about it."""
    probe = run(['/bin/true'], library, options_text(64 << 20))
    said = [line for line in probe.outcome.err.decode(errors='replace').splitlines() if 'glebe' in line]
    return probe.mode(), ' '.join(said)[:200]


def mib(count):
    return f'{count / (1 << 20):.0f} MiB'


def page_files(process, directory):
    """Descriptors, as paths below /proc, of deleted files of that folder, whichever thread has them open."""
    found = {}
    for path in glob.glob(f'/proc/{process}/task/*/fd/*'):
        try:
            target, info = os.readlink(path), os.stat(path)
        except OSError:
            continue
        if target.startswith(os.path.realpath(directory) + '/') and target.endswith('(deleted)'):
            found[info.st_ino] = path
    return list(found.values())


def said(outcome, pattern):
    return re.search(pattern, outcome.err.decode(errors='replace')) is not None


def faults(outcome):
    """What a failed run says about its failure: how it ended, and the lines that name something wrong."""
    lines = (outcome.err or b'').decode(errors='replace').splitlines()
    named = [line.strip() for line in lines if re.search('FAILED|WRONG|HANG|errno|glebe: |wait status', line)]
    return f'{outcome.how()}: ' + ' | '.join(named[:8])[:900]
