#!/usr/bin/env python3
"""Programs in half of their memory: glebe's paging tier against what the kernel offers, in one interleaved
run. See bench/README.md. Needs root for the memory cgroups and for swap; what the machine does not allow is
named and left out. Settings of the machine are restored at the end, after an error and after Ctrl-C."""
import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, 'paging'), os.path.join(HERE, '..', 'tests', 'process')]
import kernel  # noqa: E402
import paging_redis  # noqa: E402
import real_programs  # noqa: E402

PYTHON = '''
import hashlib, json, sys
rows = [{"id": i, "name": "row %d" % i, "tags": ["t%d" % (i * k % 97) for k in range(5)]}
        for i in range(SIZE)]
for turn in range(4):
    total = hashlib.sha256()
    for row in rows:
        total.update(str(row["id"]).encode() + row["tags"][turn].encode())
    for row in rows[turn::40]:
        row["name"] += " turn %d" % turn
total = hashlib.sha256(json.dumps(rows[::7]).encode())
print(total.hexdigest())
'''


class Way:
    """One way of running with less memory."""

    def __init__(self, name, settings=None, paged=None, mode=None):
        self.name, self.settings = name, settings or contextlib.nullcontext
        self.paged, self.mode = paged, mode

    def is_kernel(self):
        return self.paged is None and self.name != 'unlimited'

    def has_pool(self):
        return self.is_kernel() and self.name in ('zswap', 'zram')

    def needs_swap(self):
        return self.is_kernel() or self.mode == 'kernel'


def all_ways(options):
    size = options.swap_gib << 30

    def with_file(is_zswap):
        @contextlib.contextmanager
        def settings():
            with kernel.zswap(is_zswap), kernel.swap_file(size):
                yield
        return settings
    # Direct I/O, as the kernel's swap: not through the page cache.
    files = ['page_codec=lz4', f'page_directory={options.pages}', 'page_direct_io=1']
    return [Way('unlimited'), Way('glebe lz4', paged=['page_codec=lz4']),
            Way('glebe zstd', paged=['page_codec=zstd']), Way('glebe file', paged=files),
            Way('glebe+swap file', with_file(False), [], 'kernel'),
            Way('glebe+zswap', with_file(True), [], 'kernel'),
            Way('glebe+zram', lambda: kernel.zram(size), [], 'kernel'),
            Way('swap file', with_file(False)), Way('zswap', with_file(True)),
            Way('zram', lambda: kernel.zram(size))]


def usable(ways):
    """Tries each baseline once; returns those that work and why the others do not."""
    good, refused = [], {}
    for way in ways:
        try:
            if kernel.swaps() and way.needs_swap():
                raise kernel.Refused('swap is on already; the baselines need a machine without')
            with way.settings():
                kernel.Cgroup().remove()
            good.append(way)
        except (kernel.Refused, OSError) as error:
            refused[way.name] = str(error)
    return good, refused


class Run:
    """One process in a cgroup of its own; the result is what the workload measured and what was held."""

    def __init__(self, options, way, budget):
        self.way = way
        self.cgroup = kernel.Cgroup(budget if way.is_kernel() else None)
        self.environment = {k: v for k, v in os.environ.items() if k not in ('LD_PRELOAD', 'GLEBE_OPTIONS')}
        if not (options.kernel_allocator == 'libc' and way.is_kernel()):
            self.environment['LD_PRELOAD'] = options.library
        self.stats = tempfile.mkdtemp(prefix='glebe-bench-stats-')
        if way.paged is not None:
            entries = [f'paging={way.mode or options.mode}', f'memory={budget}',
                       f'stats_file={self.stats}/%p.json', *way.paged]
            self.environment['GLEBE_OPTIONS'] = ','.join(entries)
        self.watch = kernel.Watch(self.cgroup)

    def start(self, command, **more):
        return subprocess.Popen([str(word) for word in command], env=self.environment,
                                preexec_fn=self.cgroup.enter,
                                **more)

    def __enter__(self):
        self.watch.start()
        return self

    def __exit__(self, *_):
        self.watch.stop()
        self.cgroup.remove()
        shutil.rmtree(self.stats, ignore_errors=True)

    def counted(self):
        """The sum over the processes that left their numbers."""
        total = {}
        for name in os.listdir(self.stats):
            with open(os.path.join(self.stats, name),
                      encoding='utf-8') as file, contextlib.suppress(ValueError):
                for key, value in json.load(file).items():
                    if key == 'paging_mode':
                        total[key] = max(total.get(key, 0), value)
                    elif key.startswith('paging_'):
                        total[key] = total.get(key, 0) + value
        return total


def finish(process, limit):
    """Standard output of the process; an error text when it failed."""
    try:
        out, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None, f'no end after {limit} s'
    return out, None if process.returncode == 0 else f'status {process.returncode}'


class Workloads:
    """Each takes a Run and returns a dictionary with `seconds` and, when something was wrong, `error`. The
    content that the first run gave is what all others must give."""

    def __init__(self, options, work):
        self.options, self.work, self.expected = options, work, {}
        self.load = os.path.join(options.programs, 'paging_load')

    def _same(self, name, content, result):
        if self.expected.setdefault(name, content) != content:
            result['error'] = 'the output differs'
        return result

    def _load(self, run, *words):
        start = time.monotonic()
        process = run.start([self.load, *words], stdout=subprocess.PIPE)
        out, error = finish(process, self.options.limit)
        result = json.loads(out) if out else {}
        result['seconds'] = time.monotonic() - start
        if error:
            result['error'] = error + (', wrong bytes' if result.get('wrong') else '')
        return result

    def zipf(self, run):
        return self._load(run, 'zipf', self.options.mib, self.options.operations)

    def phases(self, run):
        return self._load(run, 'phases', self.options.mib, self.options.operations * 2)

    def latency(self, run):
        return self._load(run, 'latency', self.options.mib, 20000)

    def gxx(self, run):
        source = os.path.join(self.work, 'large.cpp')
        if not os.path.exists(source):
            with open(source, 'w', encoding='ascii') as file:
                file.write(real_programs.source_text(self.options.functions))
        start = time.monotonic()
        process = run.start(['g++', '-std=c++17', '-O2', '-S', '-o', '-', source], stdout=subprocess.PIPE)
        out, error = finish(process, self.options.limit)
        result = {'seconds': time.monotonic() - start}
        return {**result, 'error': error} if error else self._same('g++', out, result)

    def python(self, run):
        text = PYTHON.replace('SIZE', str(self.options.rows))
        start = time.monotonic()
        process = run.start(['/usr/bin/python3', '-c', text], stdout=subprocess.PIPE)
        out, error = finish(process, self.options.limit)
        result = {'seconds': time.monotonic() - start}
        return {**result, 'error': error} if error else self._same('python', out, result)

    def redis(self, run):
        folder = tempfile.mkdtemp(prefix='redis-', dir=self.work)
        server = paging_redis.Server(folder, lambda command: run.start(command, stdout=subprocess.DEVNULL))
        try:
            traffic = paging_redis.Traffic(server, self.options.keys)
            start = time.monotonic()
            traffic.load()
            traffic.work(self.options.requests)
            result = {'seconds': time.monotonic() - start}
            traffic.compare_all()
            if traffic.wrong:
                result['error'] = f'{traffic.wrong} wrong answers'
        except (RuntimeError, OSError) as error:
            result = {'error': str(error)}
        finally:
            server.stop()
        return result


NAMES = {'zipf': Workloads.zipf, 'phases': Workloads.phases, 'latency': Workloads.latency,
         'g++': Workloads.gxx,
         'python': Workloads.python, 'redis': Workloads.redis}


KILLS_MOST = 2


def one_run(options, workloads, name, way, budget):
    """A baseline that the kernel kills for want of memory, which depends on how fast its swap happens to be,
    gets two more tries; the kills are counted. One with pools in RAM is run until it holds the budget."""
    search = kernel.LimitSearch(budget) if way.has_pool() and not options.pools_are_free else None
    kills = 0
    while True:
        result = try_once(options, workloads, name, way, search.limit if search else budget)
        result['kills'] = kills
        if way.is_kernel() and result.get('error'):
            kills += 1
            if kills > KILLS_MOST:
                return result
        elif search is None:
            return result
        else:
            result['limit_bytes'] = search.limit
            search.note(result['peak_held_bytes'])
            if search.is_done():
                return result


def try_once(options, workloads, name, way, budget):
    with way.settings(), Run(options, way, budget) as run:
        result = NAMES[name](workloads, run)
        result.update(run.watch.figures())
        result['peak_held_mib'] = result['peak_held_bytes'] / (1 << 20)
        result['average_held_mib'] = result['average_held_bytes'] / (1 << 20)
        result['counted'] = run.counted()
    if way.paged is not None and not result.get('error') and result['counted'].get('paging_mode', 0) == 0:
        result['error'] = 'paging stayed off'
    return result


def measure(options, ways, work):
    workloads, results, budgets = Workloads(options, work), {}, {}
    for turn in range(options.repeat):
        for name in options.only:
            for way in ways:
                if way.name != 'unlimited' and name not in budgets:
                    continue
                result = one_run(options, workloads, name, way, budgets.get(name))
                results.setdefault(name, {}).setdefault(way.name, []).append(result)
                if way.name == 'unlimited' and name not in budgets and not result.get('error'):
                    budgets[name] = max(16 << 20, result['peak_resident_bytes'] * options.percent // 100)
                note = result.get('error') or f'{result["seconds"]:.2f} s'
                print(f'  {turn + 1}/{options.repeat} {name}, {way.name}: {note}, '
                      f'resident {result["peak_resident_bytes"] >> 20} MiB, '
                      f'held {result["peak_held_bytes"] >> 20} MiB', file=sys.stderr, flush=True)
    return results, budgets


def torture_times(options, paged):
    """Median time of each workload of the torture bench; an error text in its place."""
    environment = {k: v for k, v in os.environ.items() if k != 'GLEBE_OPTIONS'}
    if paged:
        environment['GLEBE_OPTIONS'] = f'paging={options.mode},memory=64G'
    with tempfile.NamedTemporaryFile(suffix='.json') as file:
        command = [options.torture, '--short', '--repeat', '3', '--glebe', options.library, '--allocators',
                   'glebe',
                   '--json', file.name]
        done = subprocess.run(command, env=environment, capture_output=True)
        if done.returncode != 0:
            return done.stdout.decode(errors='replace')[-400:]
        with open(file.name, encoding='utf-8') as text:
            report = json.load(text)
    return {row['name']: row['results']['glebe']['wall_s']['median'] for row in report['workloads']}


def cost_of_idling(options):
    """The torture bench without and with paging enabled and a budget that is never reached, in turns."""
    if not options.torture:
        return None
    ratios = {}
    for turn in range(options.repeat):
        # Which comes first changes, so that a drift of the machine does not count for one side.
        order = (False, True) if turn % 2 == 0 else (True, False)
        times = {paged: torture_times(options, paged) for paged in order}
        for value in times.values():
            if isinstance(value, str):
                return {'error': value}
        for name, plain in times[False].items():
            ratios.setdefault(name, []).append(times[True][name] / plain)
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    return {'ratio': statistics.geometric_mean(medians.values()), 'rows': medians}


def median_of(runs, *keys):
    values = []
    for run in runs:
        for key in keys:
            run = run.get(key, {}) if isinstance(run, dict) else {}
        if isinstance(run, (int, float)):
            values.append(run)
    return statistics.median(values) if values else None


def cell(runs, *keys, form='{:.2f}'):
    errors = [run['error'] for run in runs if run.get('error')]
    if errors:
        return 'FAIL' if len(errors) == len(runs) else 'FAIL*'
    value = median_of(runs, *keys)
    kills = sum(run.get('kills', 0) for run in runs)
    return '-' if value is None else form.format(value) + (f' ({kills} killed)' if kills else '')


def table(title, rows, columns):
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    print(f'\n{title}')
    for row in [columns, *rows]:
        print('  ' + '  '.join(text.ljust(width) if i == 0 else text.rjust(width)
                               for i, (text, width) in enumerate(zip(row, widths))))


# A way that holds more than this much of the budget, on average over a run, is not compared: more memory is
# less paging.
HELD_MOST = 1.15


def best_of(results, ways, budget):
    """The shortest median time of those ways that never failed and kept to the budget; None when none did."""
    times = []
    for runs in (results.get(way.name, []) for way in ways):
        if any(run.get('error') for run in runs):
            continue
        if runs and median_of(runs, 'average_held_bytes') <= budget * HELD_MOST:
            times.append(median_of(runs, 'seconds'))
    return min((time for time in times if time), default=None)


def print_tables(options, ways, results, budgets):
    names = [way.name for way in ways]
    rows, held, average = [], [], []
    for name in [name for name in options.only if name != 'latency' and name in results]:
        budget = budgets.get(name, 0)
        ours = best_of(results[name], [way for way in ways if way.paged is not None], budget)
        kernels = best_of(results[name], [way for way in ways if way.is_kernel()], budget)
        start = [name, f'{budgets.get(name, 0) >> 20}']
        rows.append(start + [cell(results[name].get(way, []), 'seconds') for way in names] +
                    [f'{ours / kernels:.2f}' if ours and kernels else '-'])
        held.append(start + [cell(results[name].get(way, []), 'peak_held_mib', form='{:.0f}')
                             for way in names])
        average.append(start + [cell(results[name].get(way, []), 'average_held_mib', form='{:.0f}')
                                for way in names])
    if rows:
        table(f'total time, s, at {options.percent} % of the unlimited peak; last: our best by theirs, '
              f'of those that held at most {HELD_MOST:.2f} of the budget on average',
              rows, ['workload', 'MiB', *names, 'ratio'])
        table('most memory held, MiB: anonymous resident and the kernel\'s compressed pool', held,
              ['workload', 'MiB', *names])
        table('held on average, MiB', average, ['workload', 'MiB', *names])
    if 'latency' in results:
        keys = [('random, p50', ('random', 'p50_us')), ('random, p99', ('random', 'p99_us')),
                ('heap order, mean of all pages', ('heap_order', 'mean_us'))]
        rows = [[label] + [cell(results['latency'].get(way, []), *key) for way in names]
                for label, key in keys]
        table('page-in, us for each touch of a page that was out', rows, ['touch', *names])


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--library', required=True, help='libglebe.so')
    parser.add_argument('--programs', required=True, help='folder with paging_load')
    parser.add_argument('--torture', help='the torture bench, for the cost of paging that has nothing to do')
    parser.add_argument('--only', default=','.join(NAMES), help='workloads: ' + ','.join(NAMES))
    parser.add_argument('--ways', help='only ways whose name contains one of these words (comma)')
    parser.add_argument('--percent', type=int, default=50)
    parser.add_argument('--repeat', type=int, default=3)
    parser.add_argument('--mib', type=int, default=256, help='objects of zipf, phases and latency')
    parser.add_argument('--operations', type=int, default=4_000_000)
    parser.add_argument('--functions', type=int, default=600, help='of the file for g++')
    parser.add_argument('--rows', type=int, default=300_000, help='of the python workload')
    parser.add_argument('--keys', type=int, default=300_000)
    parser.add_argument('--requests', type=int, default=300_000)
    parser.add_argument('--swap-gib', type=int, default=4)
    parser.add_argument('--limit', type=int, default=600, help='seconds for one run')
    parser.add_argument('--mode', default='auto', help='paging=MODE')
    parser.add_argument('--kernel-allocator', choices=['glebe', 'libc'], default='glebe',
                        help='what the baselines of the kernel run with; glebe has its paging off there')
    parser.add_argument('--pools-are-free', action='store_true',
                        help='the limit of the baselines is the budget, although zram, and under cgroups of '
                             'version 1 zswap, take RAM besides: they then use more memory')
    parser.add_argument('--json')
    options = parser.parse_args()
    options.library, options.programs = os.path.abspath(options.library), os.path.abspath(options.programs)
    options.only = [name for name in options.only.split(',') if name]
    unknown = [name for name in options.only if name not in NAMES]
    if unknown:
        parser.error(f'unknown workload {unknown[0]}')
    return options


def main():
    options = parse()
    if os.geteuid() != 0:
        sys.exit('paging.py: memory cgroups and swap need root')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = tempfile.mkdtemp(prefix='glebe-bench-', dir='/var/tmp')
    options.pages = os.path.join(work, 'pages')
    os.mkdir(options.pages)
    try:
        ways = all_ways(options)
        if options.ways:
            ways = [way for way in ways if way.name == 'unlimited' or
                    any(word in way.name for word in options.ways.split(','))]
        ways, refused = usable(ways)
        for name, reason in refused.items():
            print(f'not on this machine: {name}: {reason}')
        results, budgets = measure(options, ways, work)
        idle = cost_of_idling(options)
        disk = subprocess.run([os.path.join(options.programs, 'paging_load'), 'disk', work, '5000'],
                              capture_output=True)
        disk = json.loads(disk.stdout)['random'] if disk.returncode == 0 else None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print_tables(options, ways, results, budgets)
    if disk:
        print(f'\ndirect read of 4 KiB from the disk of the page files: p50 {disk["p50_us"]:.1f} us, '
              f'p99 {disk["p99_us"]:.1f} us')
    if idle:
        ratio = idle.get('error') or f'{idle["ratio"]:.3f} of the time without'
        print(f'paging enabled, nothing cold: {ratio}')
    if options.json:
        with open(options.json, 'w', encoding='utf-8') as file:
            json.dump({'kernel': platform.release(), 'cores': os.cpu_count(), 'options': vars(options),
                       'refused': refused, 'budgets': budgets, 'results': results, 'disk': disk,
                       'idle': idle}, file, indent=1)
    failed = any(run.get('error') for name in results.values() for way, runs in name.items() for run in runs
                 if way.startswith('glebe') or way == 'unlimited')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
