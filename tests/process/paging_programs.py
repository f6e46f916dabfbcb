"""Real programs at a budget of half of their unpaged peak: exit status and output must be those of a run
without the library. The quick set takes a few minutes, --full adds the long ones. ("Real programs under
paging" of the issue.)"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import harness
import paging
import paging_redis
import real_programs
import real_servers

MEMORY_LEAST = 8 << 20
PAGE_BYTES = 4096
SQLITE_CACHE_KIB = 400_000  # the whole database

# Grows to some 150 MiB, then walks it several times: the cold part is read back again and again.
PYTHON = r'''
import hashlib, json
rows = [{"id": i, "name": "row %d" % i, "tags": ["t%d" % (i * k % 97) for k in range(5)]}
        for i in range(150000)]
for turn in range(3):
    total = hashlib.sha256()
    for row in rows[turn::3] + rows[:1000]:
        total.update(json.dumps(row).encode())
    for row in rows[::50]:
        row["name"] += " turn %d" % turn
    print(turn, total.hexdigest())
'''


class PagedComparison(real_programs.Comparison):
    """As its base, but the run with the library gets half of the peak of the run without it."""

    def run(self, name, command, timeout=300, python_malloc='malloc', **more):
        self.python_malloc = python_malloc
        super().run(name, command, timeout, **more)

    def compare(self, name, plain, run_ours, more):
        self.memory, self.paged = max(MEMORY_LEAST, plain[0].peak_kib * 1024 // 2), None
        ours = run_ours()
        self.judge(name, plain, ours)
        detail = f'budget {paging.mib(self.memory)}, {self.paged.traffic()}'
        over = plain[0].peak_kib * 1024 - self.memory
        if not more.get('must_shrink') or self.paged.mode() != 'uffd':
            print(f'         {detail}', flush=True)
            return
        # How far it gets down depends on the machine; that what is above the budget went out does not.
        went_out = self.paged.number('paging_page_outs') * PAGE_BYTES
        self.results.add(f'{name}: what is above the budget went out', went_out >= over, detail)
        if self.options.full:
            peaks = [run[0].peak_kib for run in (plain, ours)]
            self.results.add(f'{name}: peak at most 75 % of the unpaged one', peaks[1] * 4 <= peaks[0] * 3,
                             f'{peaks[0] >> 10} MiB, {peaks[1] >> 10} MiB')

    def start(self, library, command, timeout, extra, given):
        extra['PYTHONMALLOC'] = self.python_malloc
        if not library:
            return super().start(None, command, timeout, extra, given)
        text = paging.options_text(self.memory, self.options.pages)
        self.paged = paging.run(command, library, text, timeout * 4, extra, **given)
        return self.paged.outcome


def redis(results, options):
    """Keys under zipf traffic with background saves; then the saved file is loaded by a server without the
    library."""
    name = f'redis-server, {options.keys} keys under zipf traffic, BGSAVE'
    if not shutil.which('redis-server'):
        if options.full:
            results.add(name, False, 'missing: redis-server')
        else:
            results.skip(name, 'missing: redis-server')
        return
    folder = os.path.join(options.work, 'redis')
    os.mkdir(folder)
    peak = redis_run(options, folder, None, None)[1]
    memory = max(MEMORY_LEAST, peak // 2)
    stats = os.path.join(options.work, 'redis-stats')
    os.mkdir(stats)
    text = paging.options_text(memory, options.pages) + f',stats_file={stats}/%p.json'
    try:
        traffic, our_peak, saved, digest, status = redis_run(options, folder, options.library, text)
        again, loaded = redis_load(folder)
    except (RuntimeError, OSError) as error:
        results.add(name, False, str(error))
        return
    results.add(name, traffic.wrong == 0 and saved and status == 0 and digest == again and
                loaded == options.keys,
                f'{traffic.asked} answers, {traffic.wrong} wrong, saved {saved}, status {status}, peak '
                f'{paging.mib(peak)}, with budget {paging.mib(memory)} {paging.mib(our_peak)}')


def redis_run(options, folder, library, text):
    def start(command):
        extra = {'GLEBE_OPTIONS': text} if text else None
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr,
                                env=harness.environment(library, extra), start_new_session=True)
    server = paging_redis.Server(folder, start, ['--dbfilename', 'dump.rdb'])
    try:
        traffic = paging_redis.Traffic(server, options.keys)
        traffic.load()
        traffic.work(options.operations)
        saved = server.save_in_background()
        traffic.work(options.operations // 2)
        traffic.compare_all()
        saved = server.save_in_background() and saved
        digest = server.ask('DEBUG', 'DIGEST')
        with open(f'/proc/{server.process.pid}/status', encoding='ascii') as file:
            peak = next(int(line.split()[1]) for line in file if line.startswith('VmHWM')) * 1024
    except (RuntimeError, OSError):
        server.process.send_signal(signal.SIGKILL)
        raise
    finally:
        status = server.stop()
    return traffic, peak, saved, digest, status


def redis_load(folder):
    server = paging_redis.Server(folder, lambda command: subprocess.Popen(command, stdout=subprocess.DEVNULL),
                                 ['--dbfilename', 'dump.rdb'])
    try:
        return server.ask('DEBUG', 'DIGEST'), int(server.ask('DBSIZE'))
    finally:
        server.stop()


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = harness.parser(__doc__)
    parser.add_argument('--full', action='store_true')
    parser.add_argument('--python', help="the interpreter, with Python's own test package")
    parser.add_argument('--repository', default=os.path.dirname(os.path.dirname(here)))
    options = harness.parse(parser)
    options.keys, options.operations = (300_000, 400_000) if options.full else (60_000, 60_000)
    results = harness.Results('paging: real programs' + (', full set' if options.full else ''))
    mode, said = paging.mode_here(options.library)
    print(f'mode on this machine: {mode}. {said}', flush=True)
    with tempfile.TemporaryDirectory(prefix='glebe-programs-', dir='/var/tmp') as options.work:
        options.pages = os.path.join(options.work, 'pages')
        os.mkdir(options.pages)
        compare = PagedComparison(results, options)
        python = real_programs.python_with_tests(options) or '/usr/bin/python3'
        compare.run('python3, own script', [python, '-c', PYTHON], 120, must_shrink=True)
        # With the interpreter's own allocator too, which takes its memory from mmap.
        compare.run('python3, own script and own allocator', [python, '-c', PYTHON], 120, must_shrink=True,
                    python_malloc='pymalloc')
        rows = 400_000 if options.full else 100_000
        compare.run(f'sqlite3, {rows} rows', ['sqlite3', 'test.db'], 300,
                    stdin=real_programs.sqlite_script(rows, SQLITE_CACHE_KIB).encode())
        real_programs.compilers(compare, options, ['g++'])
        redis(results, options)
        if options.full:
            modules = ['test_list', 'test_dict', 'test_json', 'test_threading', 'test_subprocess']
            real_programs.python_modules(compare, options, modules)
            real_programs.git(compare, options)
            # Its zygote refuses to start with a second thread, and the pager has threads.
            real_servers.chromium(compare, '--no-zygote')
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
