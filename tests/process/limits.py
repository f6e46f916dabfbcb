"""Restricted systems: an address-space limit (ulimit -v), a memory cgroup of 64 MiB, the limit of mappings
and, with --strict-overcommit, vm.overcommit_memory=2. Programs must start, run and give the output that they
give without the library. A limit under which a program fails without the library too is not counted and
named. Strict overcommit is a setting of the whole machine: it is set for a few seconds only and restored in
any case."""
import contextlib
import os
import resource
import sys

import harness

SORT_INPUT = ''.join(f'{(i * 7919) % 100003}\n' for i in range(20000)).encode()
PYTHON = ("import json; d = {str(i): list(range(i % 50)) for i in range(5000)}; "
          "print(len(json.dumps(d)), sum(len(v) for v in d.values()))")
ADDRESS_LIMITS_KIB = [64 * 1024, 100_000, 128 * 1024, 200_000, 256 * 1024, 400_000, 512 * 1024, 1024 * 1024]
CGROUP_BYTES = 64 << 20
OVERCOMMIT = '/proc/sys/vm/overcommit_memory'


def programs(options):
    return [('ls', ['/bin/ls', '/usr'], None), ('sort', ['/usr/bin/sort', '-n'], SORT_INPUT),
            ('python3', [options.python, '-c', PYTHON], None)]


def compare_programs(results, options, label, before):
    for name, command, stdin in programs(options):
        plain = harness.run(command, None, 60, stdin=stdin, before=before)
        if plain.status != 0:
            results.skip(f'{label}: {name}', f'fails without the library too: {plain.how()}')
            continue
        ours = harness.run(command, options.library, 60, stdin=stdin, before=before)
        same = ours.status == 0 and ours.out == plain.out
        results.add(f'{label}: {name}', same, '' if same else f'{ours.how()}: {ours.tail()}')


def fill(results, options, label, cap, least, before):
    command = [f'{options.programs}/limit_test', 'fill', cap, least]
    outcome = harness.run(command, options.library, 60, before=before)
    results.add(f'{label}: C++ test', outcome.status == 0, f'{outcome.how()}: {outcome.tail(2)}')


def address_space(results, options):
    for limit in ADDRESS_LIMITS_KIB:
        def before(kib=limit):
            resource.setrlimit(resource.RLIMIT_AS, (kib * 1024, kib * 1024))
        label = f'ulimit -v {limit}'
        compare_programs(results, options, label, before)
        mib = limit // 1024
        fill(results, options, label, mib * 2, 4 if mib < 128 else mib // 4, before)
        paging_says_why(results, options, label, before)


def memory_cgroup_parent():
    """Returns (folder, limit file) of the place where a memory cgroup may be created, or None."""
    version_1, version_2 = '/sys/fs/cgroup/memory', '/sys/fs/cgroup'
    if os.path.exists(f'{version_1}/memory.limit_in_bytes') and os.access(version_1, os.W_OK):
        return version_1, 'memory.limit_in_bytes'
    enabled = f'{version_2}/cgroup.subtree_control'
    if os.path.exists(enabled) and os.access(version_2, os.W_OK):
        with open(enabled, encoding='ascii') as controllers:
            if 'memory' in controllers.read().split():
                return version_2, 'memory.max'
    return None


@contextlib.contextmanager
def memory_cgroup():
    found = memory_cgroup_parent()
    if not found:
        yield None
        return
    folder = os.path.join(found[0], f'glebe_test_{os.getpid()}')
    os.mkdir(folder)
    try:
        with open(os.path.join(folder, found[1]), 'w', encoding='ascii') as limit:
            limit.write(str(CGROUP_BYTES))
        yield folder
    except OSError as error:
        print(f'memory cgroup: {error}')
        yield None
    finally:
        os.rmdir(folder)


def cgroup(results, options):
    with memory_cgroup() as folder:
        if folder is None:
            results.skip('memory cgroup of 64 MiB', 'no memory cgroup may be created here')
            return

        def before():
            with open(os.path.join(folder, 'cgroup.procs'), 'w', encoding='ascii') as procs:
                procs.write(str(os.getpid()))
        compare_programs(results, options, 'cgroup 64 MiB', before)
        fill(results, options, 'cgroup 64 MiB', 40, 40, before)


def mappings(results, options):
    for left in [0, 2, 10, 100, 1000]:
        outcome = harness.run([f'{options.programs}/limit_test', 'maps', left], options.library, 60)
        results.add(f'{left} mappings left', outcome.status == 0, f'{outcome.how()}: {outcome.tail(2)}')


def paging_says_why(results, options, name, before=None):
    """Without room for the tables of the pager the program works, and one line says what is missing."""
    wish = {'GLEBE_OPTIONS': 'paging=uffd,memory=64M'}
    outcome = harness.run(['/bin/echo', 'works'], options.library, 60, wish, before=before)
    said = outcome.out == b'works\n' and b'overcommit_memory=2' in outcome.err
    results.add(f'{name}: paging stays off and says why', outcome.status == 0 and said, outcome.tail(1))


def strict_overcommit(results, options):
    name = 'vm.overcommit_memory=2'
    with open(OVERCOMMIT, encoding='ascii') as setting:
        old = setting.read()
    try:
        try:
            with open(OVERCOMMIT, 'w', encoding='ascii') as setting:
                setting.write('2')
        except OSError as error:
            results.skip(name, f'may not be set: {error.strerror}')
            return
        compare_programs(results, options, name, None)
        fill(results, options, name, 200, 200, None)
        paging_says_why(results, options, name)
    finally:
        with contextlib.suppress(OSError), open(OVERCOMMIT, 'w', encoding='ascii') as setting:
            setting.write(old)


def main():
    parser = harness.parser(__doc__)
    parser.add_argument('--python', default='/usr/bin/python3')
    parser.add_argument('--strict-overcommit', action='store_true')
    options = harness.parse(parser)
    results = harness.Results('limits of the system')
    address_space(results, options)
    cgroup(results, options)
    mappings(results, options)
    if options.strict_overcommit:
        strict_overcommit(results, options)
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
