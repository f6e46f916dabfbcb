"""Real programs under the preload, compared with a run without it: exit status and output must be identical.
The quick set runs by default, --full adds the long ones. A program that fails without the library too says
nothing about it: it is skipped with that reason, never counted as passed. One that is not installed is
skipped as missing, and with --full is a failure. The peak RSS of each run is shown. Normalised in the output,
and nothing else: in the reports of Python's test runner the times, durations, load averages and random seed.
"""
import hashlib
import os
import re
import shutil
import sys
import tempfile

import harness
import real_servers

# A test of Python's own that depends on timing may fail on a loaded machine. Only the run without the library
# is made again: a failure with it is a failure.
PLAIN_TRIES = 3
PERL = r'''
use strict; my %h; my @list;
for my $i (1..60000) { my $k = "key" . ($i * 7919 % 50021); $h{$k} .= chr(65 + $i % 26);
  push @list, [$i, "x" x ($i % 60)]; }
my $n = 0; for my $k (sort keys %h) { $n += length($h{$k}); $n ^= ord($1) if $h{$k} =~ /([A-M])/; }
@list = sort { length($b->[1]) <=> length($a->[1]) || $a->[0] <=> $b->[0] } @list;
my $text = join(",", map { $_->[0] } @list[0..2000]); $text =~ s/(\d+)/<$1>/g;
my @parts = split /,/, $text; print "$n ", scalar(@parts), " ", length($text), " $parts[17]\n";
'''
PYTHON = r'''
import json, re, subprocess, sys, threading
rows = [{"id": i, "text": "word %d " % i * (i % 9), "list": list(range(i % 40))} for i in range(30000)]
text = json.dumps(rows); back = json.loads(text)
print(len(text), back[777]["list"][-1], len(re.findall("word 7", text)))
totals = []
def work(n):
    d = {}
    for i in range(40000): d["%d" % (i * n % 9973)] = bytearray(i % 300)
    totals.append(sum(map(len, d.values())))
threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 7)]
[t.start() for t in threads]; [t.join() for t in threads]; print(sorted(totals))
for i in range(10):
    print(subprocess.run([sys.executable, "-c", "print(sum(range(%d)))" % i], capture_output=True).stdout)
'''


def normalise_python(text):
    text = re.sub(rb'\d+:\d\d:\d\d( load avg: [\d.]+)?', b'TIME', text)
    text = re.sub(rb'(\d+ min )?\d+(\.\d+)? (sec|ms)\b', b'DURATION', text)
    return re.sub(rb'Using random seed:? \d+', b'SEED', text)


def source_text(functions):
    """A C++ file that takes a compiler some seconds: many small functions and template instantiations."""
    lines = ['#include <algorithm>', '#include <map>', '#include <string>', '#include <vector>',
             'template <int n> struct Sum { static constexpr long value = n + Sum<n - 1>::value; };',
             'template <> struct Sum<0> { static constexpr long value = 0; };']
    for i in range(functions):
        lines.append(f'long f{i}(long a, long b) {{ std::vector<long> v(static_cast<unsigned>(a % 50) + 3); '
                     f'for (long& x : v) x = (b = b * {i + 3} + a) % 1009; std::sort(v.begin(), v.end()); '
                     f'return v[1] + Sum<{i % 400}>::value; }}')
    for i in range(functions // 20):
        lines.append(f'struct T{i} {{ int k; bool operator<(const T{i}& o) const {{ return k < o.k; }} }}; '
                     f'std::string m{i}(int k) {{ std::map<T{i}, std::string> m; m[T{i}{{k}}] = "v"; '
                     f'return m.begin()->second; }}')
    return '\n'.join(lines) + '\n'


class Comparison:
    """Runs one command with and without the library, each in a fresh folder, and compares what they
    leave behind."""

    def __init__(self, results, options):
        self.results, self.options = results, options

    def run(self, name, command, timeout=300, **more):
        if not shutil.which(str(command[0])):
            self.missing(name, command[0])
            return
        plain = self.attempt(None, command, timeout, more)
        for _ in range(PLAIN_TRIES - 1):
            if plain[0].status != 0:
                plain = self.attempt(None, command, timeout, more)
        self.compare(name, plain, lambda: self.attempt(self.options.library, command, timeout, more), more)

    def compare(self, name, plain, run_ours, _more):
        """Given the run without the library, makes the one with it."""
        self.judge(name, plain, run_ours())

    def attempt(self, library, command, timeout, more):
        """Returns (outcome, what the program left behind)."""
        # The same path each time, because programs put paths into their output.
        folder = os.path.join(self.options.work, 'run')
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)
        if 'prepare' in more:
            more['prepare'](folder)
        extra = {'PERL_HASH_SEED': '0', 'PYTHONHASHSEED': '0', 'LC_ALL': 'C.UTF-8', 'HOME': folder}
        outcome = self.start(library, command, timeout, extra, {'stdin': more.get('stdin'), 'cwd': folder})
        collect = more.get('collect', lambda folder, outcome: outcome.out)
        return outcome, collect(folder, outcome) if outcome.status == 0 else b''

    def start(self, library, command, timeout, extra, given):
        """Runs the command once; `extra` is for its environment, `given` its standard input and folder."""
        return harness.run(command, library, timeout, extra, **given)

    def judge(self, name, plain, ours):
        memory = f'{plain[0].seconds:.1f} s {plain[0].peak_kib / 1024:.0f} MiB, with the library ' \
                 f'{ours[0].seconds:.1f} s {ours[0].peak_kib / 1024:.0f} MiB'
        if plain[0].status != 0:
            self.results.skip(name, f'fails without the library too: {plain[0].how()} {plain[0].tail()}')
        elif ours[0].status != 0:
            self.results.add(name, False, f'{ours[0].how()} {ours[0].tail()}')
        else:
            same = plain[1] == ours[1]
            self.results.add(name, same, memory if same else f'output differs; {memory}')

    def missing(self, name, program):
        if self.options.full:
            self.results.add(name, False, f'missing: {program}')
        else:
            self.results.skip(name, f'missing: {program}')


def python_with_tests(options):
    for candidate in [options.python, '/usr/bin/python3', shutil.which('python3'), sys.executable]:
        if candidate and harness.run([candidate, '-c', 'import test.test_list']).status == 0:
            return harness.run([candidate, '-c', 'import sys; print(sys.executable)']).out.decode().strip()
    return None


def python_modules(compare, options, modules):
    python = python_with_tests(options)
    for module in modules:
        name = f'python3 -m test {module}'
        if not python:
            compare.missing(name, "Python's own test package (libpython3-testsuite)")
            continue
        compare.run(name, [python, '-m', 'test', '-q', module], 600,
                    collect=lambda folder, outcome: normalise_python(outcome.out))


def compilers(compare, options, compiler_names=('g++', 'clang++')):
    text = source_text(1500 if options.full else 200)

    def prepare(folder):
        with open(os.path.join(folder, 'large.cpp'), 'w', encoding='ascii') as source:
            source.write(text)

    def collect(folder, _):
        with open(os.path.join(folder, 'large.o'), 'rb') as result:
            return hashlib.sha256(result.read()).digest()
    for compiler in compiler_names:
        command = [compiler, '-std=c++17', '-O2', '-c', 'large.cpp']
        name = f'{compiler} -O2 of {len(text.splitlines())} lines'
        compare.run(name, command, 600, prepare=prepare, collect=collect)


GIT = '''set -e
git -c safe.directory='*' clone -q --no-local --no-hardlinks "$0" copy
cd copy
git config pack.threads 1
git gc -q --aggressive --prune=now
git fsck --full --strict
git log --format='%H %s' | sort | sha256sum
git ls-files -s | sha256sum
git count-objects -v | grep -E '^(count|in-pack|garbage)'
git archive HEAD | sha256sum
'''


def git(compare, options):
    inside = harness.run(['git', '-c', 'safe.directory=*', '-C', options.repository, 'rev-parse', 'HEAD'])
    if shutil.which('git') and inside.status != 0:
        reason = f'{options.repository} is not a git repository with commits'
        compare.results.skip('git clone, gc, fsck', reason)
        return
    command = ['sh', '-c', GIT, options.repository] if shutil.which('git') else ['git']
    compare.run('git clone, gc, fsck of the repository', command, 300)


def sqlite_script(rows, cache_kib=2000):
    return f'''PRAGMA journal_mode=MEMORY; PRAGMA cache_size=-{cache_kib};
CREATE TABLE t(id INTEGER PRIMARY KEY, k INTEGER, s TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
INSERT INTO t SELECT i, (i * 7919) % 100003, printf('row %d of %d', i, (i * 31) % 977) FROM n;
CREATE INDEX tk ON t(k); CREATE INDEX ts ON t(s);
SELECT count(*), sum(k), sum(length(s)) FROM t;
SELECT k, count(*), max(s) FROM t GROUP BY k ORDER BY 2 DESC, 1 LIMIT 20;
UPDATE t SET s = s || ' changed' WHERE k % 7 = 0;
DELETE FROM t WHERE k % 11 = 3;
SELECT a.k, count(*) FROM t a JOIN t b ON a.k = b.k WHERE a.id % 1000 = 1 GROUP BY a.k ORDER BY a.k LIMIT 20;
SELECT count(*), sum(length(s)), group_concat(k % 10) FROM (SELECT * FROM t ORDER BY s LIMIT 200);
PRAGMA integrity_check;
'''


def quick_set(compare, options):
    compare.run('python3 own script', [options.python or '/usr/bin/python3', '-c', PYTHON])
    python_modules(compare, options, ['test_list', 'test_dict', 'test_threading'])
    compare.run('perl script', ['perl', '-e', PERL])
    compilers(compare, options)
    git(compare, options)
    rows = 1_000_000 if options.full else 40_000
    compare.run(f'sqlite3, {rows} rows', ['sqlite3', 'test.db'], 600, stdin=sqlite_script(rows).encode())


def full_set(compare, results, options):
    # 3.12 renamed these modules to packages; the runner takes both by the same name.
    modules = ['test_subprocess', 'test_multiprocessing_fork', 'test_multiprocessing_spawn']
    python_modules(compare, options, modules)
    real_servers.redis(compare, results, options)
    real_servers.chromium(compare)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = harness.parser(__doc__)
    parser.add_argument('--full', action='store_true')
    parser.add_argument('--python', help="the interpreter, with Python's own test package")
    parser.add_argument('--repository', default=os.path.dirname(os.path.dirname(here)))
    options = harness.parse(parser)
    results = harness.Results('real programs' + (', full set' if options.full else ''))
    with tempfile.TemporaryDirectory(prefix='glebe-real-') as work:
        options.work = work
        compare = Comparison(results, options)
        quick_set(compare, options)
        if options.full:
            full_set(compare, results, options)
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
