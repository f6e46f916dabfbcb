"""Paging by the kernel's swap (paging=kernel): the budget is kept, also while memory is filled, compressed
pages count, contents stay, and a forked child, which has no pager, does not wait for one. Needs swap space;
where there is none the test makes a swap file for its time, as root, and is passed over otherwise."""
import contextlib
import os
import re
import subprocess
import sys
import tempfile

import harness
import paging

MIB = 1 << 20


@contextlib.contextmanager
def swap(work):
    """Whether there is swap space, ours or the machine's."""
    with open('/proc/swaps', encoding='ascii') as file:
        is_there = len(file.readlines()) > 1
    path = os.path.join(work, 'swap')
    is_ours = False
    if not is_there and os.geteuid() == 0:
        with open(path, 'wb') as file:
            os.posix_fallocate(file.fileno(), 0, 512 * MIB)
        os.chmod(path, 0o600)
        is_ours = all(subprocess.run([command, path], capture_output=True).returncode == 0
                      for command in ('mkswap', 'swapon'))
    try:
        yield is_there or is_ours
    finally:
        if is_ours:
            subprocess.run(['swapoff', path], check=True)


def status_mib(process, key):
    with open(f'/proc/{process.pid}/status', encoding='ascii') as file:
        found = re.search(rf'^{key}:\s+(\d+)', file.read(), re.M)
    return int(found[1]) >> 10 if found else 0


def hold(results, options):
    """What is held is more than the budget; a line says that it went out, another one asks for all of it."""
    budget = options.mib // 3
    environment = harness.environment(options.library, {
        'GLEBE_OPTIONS': paging.options_text(budget * MIB, mode='kernel')})
    process = subprocess.Popen([f'{options.programs}/paging_cold', 'hold', str(options.mib)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    said = process.stdout.readline()
    resident, swapped = status_mib(process, 'RssAnon'), status_mib(process, 'VmSwap')
    peak = status_mib(process, 'VmHWM')
    process.communicate(b'go\n', timeout=options.limit)
    results.add('what is held leaves memory', b'ready' in said and swapped > options.mib // 3,
                f'{resident} MiB resident, {swapped} swapped, of {options.mib}')
    results.add('the budget is kept', resident <= budget * 5 // 4, f'{resident} MiB, budget {budget}')
    results.add('and was while memory was filled', peak <= options.mib * 4 // 5, f'peak {peak} MiB')
    results.add('it comes back as it was', process.returncode == 0, f'status {process.returncode}')


def torture(results, options):
    command = [f'{options.programs}/paging_torture', '--seconds', options.seconds, '--threads', 4,
               '--set-bytes', options.mib * MIB, '--directory', options.work, '--forks-every', 300]
    text = paging.options_text(options.mib // 2 * MIB, mode='kernel')
    paged = paging.run(command, options.library, text, options.limit)
    results.add('torture at half of its memory', paged.outcome.status == 0 and paged.mode() == 'kernel',
                paged.traffic() if paged.outcome.status == 0 else paging.faults(paged.outcome))


def main():
    parser = harness.parser(__doc__)
    parser.add_argument('--seconds', type=float, default=5)
    parser.add_argument('--mib', type=int, default=128)
    parser.add_argument('--limit', type=int, default=300, help='seconds for one program')
    options = harness.parse(parser)
    results = harness.Results('paging by the kernel')
    with tempfile.TemporaryDirectory(prefix='glebe-kernel-', dir='/var/tmp') as options.work:
        os.chmod(options.work, 0o1777)
        with swap(options.work) as has_swap:
            if has_swap:
                hold(results, options)
                torture(results, options)
            else:
                results.skip('all', 'there is no swap space, and none may be made')
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
