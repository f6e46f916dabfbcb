"""The torture of the paging tier at budgets of 25, 50 and 75 % of its working set, in RAM and with page
files, as the user who runs it and, when that is root, as an ordinary user too. Zero wrong bytes, zero errors
of system calls on paged memory, no hang. (G15, G18; issue: "nothing is lost".)"""
import os
import shutil
import sys
import tempfile

import harness
import paging

NOBODY = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']


def torture(results, options, name, percent, codec, directory=None):
    command = [f'{options.programs}/paging_torture', '--seconds', options.seconds, '--threads',
               options.threads,
               '--set-bytes', options.set_mib << 20, '--seed', options.seed + percent, '--directory',
               options.work,
               '--forks-every', options.forks_every]
    memory = max(16 << 20, (options.set_mib << 20) * percent // 100)
    text = paging.options_text(memory, directory, codec)
    # Everything is read again several times over at the end, which is slow with little memory.
    paged = paging.run(command, options.library, text, options.seconds * 3 + 600)
    outcome = paged.outcome
    results.add(name, outcome.status == 0,
                paged.traffic() if outcome.status == 0 else paging.faults(outcome))
    went_out = paged.number('paging_page_outs') > 0 or paged.mode() == 'kernel'
    results.add(f'{name}: pages went out', went_out, paged.traffic())
    for line in outcome.err.decode(errors='replace').splitlines():
        if 'RSS' in line:
            print(f'         {line.strip()}', flush=True)


def ordinary_user(results, options):
    """Without rights a program works as without paging, and is told once what to enable."""
    if os.geteuid() != 0 or not shutil.which('setpriv'):
        results.skip('as an ordinary user', 'the tests run as one; the mode here is above')
        return
    # setpriv itself must not have the threads of the pager: it keeps capabilities in its first thread only.
    command = NOBODY + ['env', f'LD_PRELOAD={options.library}', f'{options.programs}/paging_torture',
                        '--seconds',
                        '5', '--threads', '4', '--set-bytes', 64 << 20, '--directory', options.work,
                        '--forks-every', '300']
    probe = harness.run(NOBODY + [f'{options.programs}/paging_torture', '--help'], None, 20)
    if probe.status != 2:
        results.skip('as an ordinary user', f'{options.programs} is not readable for one')
        return
    for mode in ('uffd', 'auto'):
        paged = paging.run(command, None, paging.options_text(32 << 20, mode=mode), 300)
        outcome, chosen = paged.outcome, paged.mode()
        results.add(f'paging={mode} as an ordinary user: the program works', outcome.status == 0,
                    f'{chosen}; {outcome.tail(2) if outcome.status == 0 else paging.faults(outcome)}')
        if mode == 'uffd' and chosen == 'off':
            results.add('paging=uffd as an ordinary user: says what to enable',
                        paging.said(outcome, r'/dev/userfaultfd|unprivileged_userfaultfd|CAP_SYS_PTRACE'),
                        outcome.tail(6))
        elif mode == 'uffd':
            results.skip('paging=uffd as an ordinary user: says what to enable', 'allowed to everybody here')


def main():
    parser = harness.parser(__doc__)
    parser.add_argument('--seconds', type=float, default=15)
    parser.add_argument('--threads', type=int, default=8)
    parser.add_argument('--set-mib', type=int, default=192)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--forks-every', type=int, default=400, help='milliseconds')
    options = harness.parse(parser)
    results = harness.Results('paging: torture')
    mode, said = paging.mode_here(options.library)
    print(f'mode on this machine: {mode}. {said}', flush=True)
    with tempfile.TemporaryDirectory(prefix='glebe-torture-') as options.work:
        os.chmod(options.work, 0o1777)
        if mode == 'off':
            results.skip('torture with a budget', said or 'the system allows no mechanism')
        else:
            torture(results, options, '75 % in RAM', 75, 'lz4')
            torture(results, options, '50 % in RAM', 50, 'zstd')
            torture(results, options, '50 % with page files', 50, 'lz4', options.work)
            torture(results, options, '25 % with page files', 25, 'lz4', options.work)
        ordinary_user(results, options)
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
