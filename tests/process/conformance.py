"""Runs the conformance programs of the malloc interface (P13, P14, S9, mut-D02, mut-D03) under a preloaded
library and judges them by exit status."""
import sys

import harness

RUNS = [('C interface: errno, edges, control functions', 'conformance', []),
        ('operator new and delete, all forms', 'conformance_new', []),
        ('usable size of every size to 70000, powers to 1 GiB', 'conformance_sizes', ['usable']),
        ('calloc is zero after dirty reuse', 'conformance_sizes', ['zero']),
        ('realloc keeps contents over a table of pairs', 'conformance_sizes', ['realloc']),
        ('alignments 8 B to 1 GiB at class boundaries', 'conformance_sizes', ['aligned']),
        ('no overlap in random replacement', 'conformance_sizes', ['overlap'])]


def main():
    options = harness.parse(harness.parser(__doc__))
    results = harness.Results('conformance of the malloc interface')
    c23 = ['require-c23'] if harness.is_glebe(options.library) else []
    for name, program, arguments in RUNS:
        extra = c23 if program == 'conformance' else []
        command = [f'{options.programs}/{program}', *arguments, *extra]
        outcome = harness.run(command, options.library, timeout=180)
        detail = f'{outcome.seconds:.1f} s' if outcome.status == 0 else f'{outcome.how()}: {outcome.tail(4)}'
        results.add(name, outcome.status == 0, detail)
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
