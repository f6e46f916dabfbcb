"""Runs every misuse program and judges it by exit status. With the default policy the program must end by
SIGABRT after a line on stderr that holds "glebe:", the kind of error and the address; with on_misuse=warn
the line is printed and the program goes on with a sound heap; with on_misuse=ignore it goes on silently."""
import re
import signal
import sys

import harness

DOUBLE = r'double free|freed twice|already free|not allocated'
INVALID = r'invalid|interior|inside|middle|misaligned|not the start|not a block'
FOREIGN = r'foreign|invalid|not ours|never allocated|not allocated|did not allocate|unknown|outside'
SIZED = r'size'
# Program, number of variants, words of which one must name the kind.
KINDS = [('double_free', 28, DOUBLE), ('interior_free', 12, INVALID), ('foreign_free', 8, FOREIGN),
         ('misaligned_free', 7, INVALID),
         ('realloc_freed', 12, DOUBLE + '|freed block|after free|not the start'),
         ('sized_free', 16, SIZED)]

# The fast path of a sized delete does not look at the size: for small blocks finding it is allowed, not
# promised. A size above what a medium or large block can hold is promised to be found.
UNPROMISED = {('sized_free', variant) for variant in range(16) if variant % 8 not in (4, 6)}
# malloc_usable_size only asks: it answers 0 for what is not a block.
UNPROMISED.add(('foreign_free', 7))


def pointer_of(outcome):
    match = re.search(rb'pointer 0x([0-9a-f]+)', outcome.out or b'')
    return match.group(1).decode() if match else None


def message_fault(outcome, words):
    """Returns what is wrong with the message on stderr, or '' when it names the kind and the address."""
    lines = [line for line in outcome.err.decode(errors='replace').splitlines() if 'glebe:' in line]
    if not lines:
        return 'no line with "glebe:"'
    text = ' '.join(lines)
    pointer = pointer_of(outcome)
    if not re.search(words, text, re.I):
        return f'kind not named: {lines[0]}'
    if not pointer or not re.search(rf'0x0*{pointer}\b', text, re.I):
        return f'address 0x{pointer} not named: {lines[0]}'
    return ''


def fault_of(outcome, policy, words):
    survived = b'survived' in outcome.out
    if policy == 'abort':
        if outcome.status != -signal.SIGABRT:
            return f'{outcome.how()}, expected SIGABRT'
        return message_fault(outcome, words)
    if outcome.status != 0 or not survived:
        return f'{outcome.how()}, expected to go on; {outcome.tail(1)}'
    if policy == 'warn':
        return message_fault(outcome, words)
    return 'a message although on_misuse=ignore' if b'glebe:' in outcome.err else ''


def run_policy(results, options, policy):
    for program, variants, words in KINDS:
        faults = []
        for variant in range(variants):
            extra = {'GLEBE_OPTIONS': f'on_misuse={policy}'} if policy != 'default' else {}
            outcome = harness.run([f'{options.programs}/{program}', str(variant)], options.library, 30, extra)
            fault = fault_of(outcome, 'abort' if policy == 'default' else policy, words)
            if (program, variant) in UNPROMISED and outcome.status == 0 and b'survived' in outcome.out:
                fault = ''
            if fault:
                faults.append(f'#{variant} {fault}')
        detail = f'{variants} variants'
        if faults:
            detail = f'{len(faults)} of {variants}: ' + '; '.join(faults[:6])
        results.add(f'{program} on_misuse={policy}', not faults, detail)


def main():
    parser = harness.parser(__doc__)
    parser.add_argument('--policy', action='append', choices=['default', 'abort', 'warn', 'ignore'])
    options = harness.parse(parser)
    results = harness.Results('misuse: each error ends in a clear message and the chosen action')
    for policy in options.policy or ['default', 'abort', 'warn', 'ignore']:
        run_policy(results, options, policy)
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
