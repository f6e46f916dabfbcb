"""The pager's own system calls fail at their N-th use, once, from then on and every N-th time. The program
must lose nothing: it works, or it is ended with a report by the library; never a wrong byte, a hang or a
crash. (V7, hardening section 3.)"""
import errno
import os
import re
import sys
import tempfile

import harness
import paging

# Call, errors that the kernel may really give there.
CASES = [('userfaultfd', ['EPERM', 'ENOSYS']), ('uffd_new', ['EPERM']), ('uffd_api', ['EINVAL']),
         ('uffd_register', ['ENOMEM', 'EINVAL']), ('uffd_move', ['EBUSY', 'EAGAIN', 'ENOMEM']),
         ('uffd_copy', ['EAGAIN', 'ENOMEM']), ('uffd_zero', ['EAGAIN', 'ENOMEM']), ('pread', ['EIO',
                                                                                              'EINTR']),
         ('pwrite', ['EIO', 'ENOSPC', 'EINTR']), ('pwritev', ['EIO', 'ENOSPC', 'EINTR']),
         ('fallocate', ['EOPNOTSUPP', 'ENOSPC']), ('ftruncate', ['EIO', 'EINTR']),
         ('io_uring_setup', ['ENOSYS', 'EPERM', 'ENOMEM']), ('io_uring_enter', ['EAGAIN', 'EINTR']),
         ('madvise', ['EAGAIN', 'ENOMEM'])]
MODES = ['once', 'from', 'every']
# Errors that pass: the kernel never gives them for ever.
TRANSIENT = ['EAGAIN', 'EINTR', 'EBUSY']
# The first thread of a process that pages is the pager's; later ones are the program's own.
FIRST_ONLY = ('clone3', 'EAGAIN')
HANG_SECONDS = 90


def run_once(options, call, error, mode, n):
    command = [f'{options.programs}/paging_fault', call, mode, n, getattr(errno, error), '--',
               f'{options.programs}/paging_torture', '--seconds', options.seconds, '--threads', 3,
               '--set-bytes', 24 << 20, '--directory', options.work, '--forks-every', 300, '--calls', 0]
    text = paging.options_text(16 << 20, options.work)
    paged = paging.run(command, options.library, text, HANG_SECONDS)
    counts = re.search(rb'matched (\d+) failed (\d+)', paged.outcome.err)
    return paged, (int(counts.group(1)), int(counts.group(2))) if counts else (0, 0)


def fault_of(paged):
    """What is wrong with the run, or nothing. The watching process ends with 1 when the process under torture
    was ended by the library, whose report is then on standard error."""
    outcome = paged.outcome
    if outcome.status == 0:
        return ''
    if paged.wrong_bytes():
        return 'wrong bytes'
    if outcome.status is None or b'HANG' in outcome.err:
        return 'hang'
    if outcome.status == 1 and re.search(rb'glebe: .*(paging|page)', outcome.err) and b'[6]' in outcome.err:
        return ''  # reported and aborted
    return outcome.how()


def run_series(results, options, call, error, mode, steps):
    faults, runs, injected, seen = [], 0, 0, 0
    # What passes cannot fail each time.
    least = 2 if mode == 'every' and error in TRANSIENT else 1
    for n in [max(n, least) for n in steps]:
        paged, (matched, failed) = run_once(options, call, error, mode, n)
        runs, injected, seen = runs + 1, injected + failed, max(seen, matched)
        fault = fault_of(paged)
        if fault:
            faults.append(f'N={n} {fault}: {paging.faults(paged.outcome)}')
            if len(faults) >= 3:
                break
        elif failed == 0:
            break
    if not seen and not faults:
        results.skip(f'{call} {error} {mode}', 'this call is never made here')
        return False
    detail = f'{runs} runs, {injected} calls failed, {seen} calls a run'
    results.add(f'{call} {error} {mode}', not faults, detail + ''.join(f'; {fault}' for fault in faults))
    return True


def main():
    parser = harness.parser(__doc__)
    parser.add_argument('--steps', type=int, nargs='+', default=[2, 50])
    parser.add_argument('--errors', type=int, default=1, help='of each call, how many errors are tried')
    parser.add_argument('--seconds', type=float, default=1)
    parser.add_argument('--call', action='append', help='only these calls')
    options = harness.parse(parser)
    results = harness.Results('paging: failing system calls')
    with tempfile.TemporaryDirectory(prefix='glebe-fail-') as options.work:
        os.chmod(options.work, 0o1777)
        for call, errors in CASES:
            if options.call and call not in options.call:
                continue
            for error in errors[:options.errors]:
                for mode in [mode for mode in MODES if mode != 'from' or error not in TRANSIENT]:
                    if not run_series(results, options, call, error, mode, options.steps):
                        break
        if not options.call or FIRST_ONLY[0] in options.call:
            run_series(results, options, *FIRST_ONLY, 'once', [1])
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
