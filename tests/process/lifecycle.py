"""The allocator over the life of processes, threads and libraries: early and late calls, RTLD_DEEPBIND
plugins, use by dlopen, thousands of short threads, signals. Each program is judged by its exit status under
a time limit."""
import sys

import harness
import paging


def last_threads(results, options, name, library, text):
    """A process whose first thread has ended writes and answers what it does without paging."""
    for part in ('main', 'fork'):
        outcome = paging.run([f'{options.programs}/last_thread', part], library, text, 60).outcome
        lines = sorted(outcome.out.split())
        expected = [b'done', b'handler'] * (1 if part == 'main' else 2)
        results.add(f'the last thread ends the process: {part}, {name}',
                    outcome.status == 0 and lines == sorted(expected), f'{outcome.how()} {lines}')


def main():
    parser = harness.parser(__doc__)
    parser.add_argument('--threads', type=int, default=10000)
    options = harness.parse(parser)
    results = harness.Results('life of processes, threads and libraries')
    runs = [('before constructors, in destructors, at exit', ['startup']),
            (f'{options.threads} threads born and dying', ['threads_churn', options.threads]),
            ('signals every 100 us without SA_RESTART', ['signal_storm', 2]),
            ('RTLD_DEEPBIND plugin, found by RUNPATH', ['deepbind'])]
    for name, (program, *arguments) in runs:
        outcome = harness.run([f'{options.programs}/{program}', *arguments], options.library, 120)
        results.add(name, outcome.status == 0, f'{outcome.how()} {outcome.tail(2)}')
    for _ in range(20 if options.library else 0):
        outcome = harness.run([f'{options.programs}/startup'], options.library, 60)
        if outcome.status != 0:
            break
    results.add('the same 20 times more (exit while a thread allocates)', outcome.status == 0, outcome.how())
    if harness.is_glebe(options.library):
        outcome = harness.run([f'{options.programs}/dlopen_use', options.library], None, 60)
        detail = f'{outcome.how()} {outcome.tail(2)}'
        results.add('opened by dlopen, not preloaded', outcome.status == 0, detail)
    last_threads(results, options, 'without paging', options.library, 'paging=off')
    if options.library:
        mode, said = paging.mode_here(options.library)
        if mode == 'off':
            results.skip('the last thread ends the process: paging', said)
        else:
            last_threads(results, options, f'paging={mode}', options.library, paging.options_text(1 << 30))
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
