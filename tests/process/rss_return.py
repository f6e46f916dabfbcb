"""Memory behaviour of whole processes: RSS falls back within two seconds after a peak (V2), and a program
that allocates 100 KB peaks at 2.4 MiB or less under the preload. --mib sets the peak (1024 is what the
acceptance asks for)."""
import sys

import harness

START_LIMIT_KIB = 2.4 * 1024


def main():
    parser = harness.parser(__doc__)
    parser.add_argument('--mib', type=int, default=1024)
    options = harness.parse(parser)
    results = harness.Results('resident memory')
    peaks = []
    for _ in range(5):
        outcome = harness.run([f'{options.programs}/startup_rss'], options.library)
        peaks.append(int(outcome.out) if outcome.status == 0 else 1 << 30)
    peak = sorted(peaks)[2]
    detail = f'{peak / 1024:.2f} MiB, median of 5'
    results.add('100 KB allocated: peak RSS <= 2.4 MiB', peak <= START_LIMIT_KIB, detail)
    for kind in ['small', 'medium', 'large', 'mixed', 'threads']:
        outcome = harness.run([f'{options.programs}/rss_return', kind, options.mib], options.library, 120)
        name = f'RSS back after {options.mib} MiB in {kind} blocks'
        results.add(name, outcome.status == 0, outcome.tail(1 if outcome.status == 0 else 3))
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
