"""Fails the N-th memory system call of a process, for N from 1 upwards, in three ways: only the N-th, all
from the N-th on, and every N-th. The workload must end well each time: no crash, no hang, NULL only with
ENOMEM, contents kept. A series ends at --most or as soon as N is above the number of calls that the process
makes, because then nothing was failed any more. (V7, hardening section 3.)"""
import errno
import re
import sys

import harness

# Call, error it is failed with. madvise may answer EAGAIN and EINVAL as well: a hint that fails is never
# fatal.
CASES = [('mmap', 'ENOMEM'), ('mprotect', 'ENOMEM'), ('munmap', 'ENOMEM'), ('mremap', 'ENOMEM'),
         ('madvise', 'ENOMEM'), ('madvise', 'EAGAIN'), ('madvise', 'EINVAL'), ('munmap', 'EINVAL')]
MODES = ['once', 'from', 'every']
HANG_SECONDS = 60


def run_once(options, call, error, mode, n):
    extra = {'FAULT_CALL': call, 'FAULT_MODE': mode, 'FAULT_N': str(n)}
    extra['FAULT_ERRNO'] = str(getattr(errno, error))
    injector = f'{options.programs}/libfault_inject.so'
    preload = f'{injector}:{options.library}' if options.library else injector
    arguments = ['recover'] if mode == 'once' else []
    outcome = harness.run([f'{options.programs}/fault_workload', *arguments], preload, HANG_SECONDS, extra)
    counts = re.search(rb'matched (\d+) failed (\d+)', outcome.err)
    return outcome, (int(counts.group(1)), int(counts.group(2))) if counts else (0, 0)


def steps(options):
    """Every N up to --dense, then every --stride-th up to --most."""
    return [n for n in range(1, options.most + 1) if n <= options.dense or n % options.stride == 0]


def run_series(results, options, call, error, mode):
    faults, runs, injected, seen = [], 0, 0, 0
    for n in steps(options):
        outcome, (matched, failed) = run_once(options, call, error, mode, n)
        runs, injected, seen = runs + 1, injected + failed, max(seen, matched)
        if outcome.status != 0:
            faults.append(f'N={n} {outcome.how()}: {outcome.tail(2)}')
            if outcome.status is None or len(faults) >= 5:
                break
        elif failed == 0:
            break
    detail = f'{runs} runs, {injected} calls failed, {seen} calls a run'
    if faults:
        detail += f'; {len(faults)} bad: ' + '; '.join(faults[:3])
    results.add(f'{call} {error} {mode}', not faults, detail)


def main():
    parser = harness.parser(__doc__)
    parser.add_argument('--most', type=int, default=200)
    parser.add_argument('--dense', type=int, default=200, help='every N up to here')
    parser.add_argument('--stride', type=int, default=10, help='beyond --dense only each stride-th N')
    parser.add_argument('--call', action='append', help='only these calls')
    options = harness.parse(parser)
    results = harness.Results('fault injection')
    plain = harness.run([f'{options.programs}/fault_workload', 'recover'], options.library, HANG_SECONDS)
    results.add('workload without faults', plain.status == 0 and b'nulls 0' in plain.err, plain.tail(1))
    for call, error in CASES:
        if options.call and call not in options.call:
            continue
        for mode in MODES:
            run_series(results, options, call, error, mode)
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
