"""Fork tests: forks under 8 allocating threads, in a signal handler, under stdio, double forks, vfork and
posix_spawn. A run that passes its time limit is a hang, is killed and fails. --forks sets the number for the
first (1000 is what the acceptance asks for), the others take a fifth of it."""
import sys

import harness


def main():
    parser = harness.parser(__doc__)
    parser.add_argument('--forks', type=int, default=200)
    options = harness.parse(parser)
    results = harness.Results('fork')
    fewer = max(10, options.forks // 5)
    runs = [('threads', options.forks)] + [(part, fewer) for part in ('signal', 'stdio', 'daemon', 'spawn')]
    for part, count in runs:
        limit = 30 + count * 0.25
        outcome = harness.run([f'{options.programs}/fork_test', part, str(count)], options.library, limit)
        detail = f'{outcome.seconds:.1f} s' if outcome.status == 0 else f'{outcome.how()}: {outcome.tail(3)}'
        results.add(f'{count} forks: {part}', outcome.status == 0, detail)
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
