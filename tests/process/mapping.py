"""Memory that programs map themselves: every mapping call by itself and in random order, without the library,
with it, and with little memory. Contents, answers and errno are those of the kernel, and pages go out."""
import sys
import tempfile

import harness
import paging


def cases(results, options, name, library, text):
    paged = paging.run([f'{options.programs}/mapping', 'cases'], library, text, 600)
    outcome = paged.outcome
    results.add(f'each call, {name}', outcome.status == 0,
                paged.traffic() if outcome.status == 0 else paging.faults(outcome))


def random_calls(results, options, name, library, text):
    command = [f'{options.programs}/mapping', 'random', options.threads, options.seconds, options.seed]
    paged = paging.run(command, library, text, options.seconds * 4 + 300)
    outcome = paged.outcome
    results.add(f'{options.threads} threads, {name}', outcome.status == 0,
                paged.traffic() if outcome.status == 0 else paging.faults(outcome))
    if paged.mode() == 'uffd' and 'memory' in text:
        served, refused = paged.number('paging_maps'), paged.number('paging_maps_refused')
        results.add(f'{options.threads} threads, {name}: pages went out',
                    paged.number('paging_page_outs') > 0)
        results.add(f'{options.threads} threads, {name}: served', served > 0 and refused == 0,
                    f'{served} mappings served, {refused} refused')


def main():
    parser = harness.parser(__doc__)
    parser.add_argument('--threads', type=int, default=8)
    parser.add_argument('--seconds', type=float, default=5)
    parser.add_argument('--seed', type=int, default=1)
    options = harness.parse(parser)
    results = harness.Results('paging: memory that the program maps')
    mode, said = paging.mode_here(options.library)
    print(f'mode on this machine: {mode}. {said}', flush=True)
    with tempfile.TemporaryDirectory(prefix='glebe-mapping-', dir='/var/tmp') as pages:
        kinds = [('without the library', None, ''), ('with it', options.library, 'paging=off')]
        if mode == 'uffd':
            kinds += [('little memory', options.library, paging.options_text(16 << 20, mode='uffd')),
                      ('little memory, page files', options.library,
                       paging.options_text(16 << 20, pages, mode='uffd'))]
        else:
            results.skip('with little memory', f'needs the mode uffd; {said}')
        for name, library, text in kinds:
            cases(results, options, name, library, text)
        for name, library, text in kinds:
            random_calls(results, options, name, library, text.replace(str(16 << 20), str(32 << 20)))
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
