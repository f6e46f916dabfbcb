"""The long-running programs of real_programs.py: redis-server with persistence under redis-benchmark, and a
headless chromium. Used by real_programs.py only."""
import glob
import os
import shutil
import subprocess
import time

import harness

REDIS_KEYS = 100_000
REDIS_BENCHMARK = ['-n', '40000', '-d', '200', '-r', '20000', '-q',
                   '-t', 'set,get,incr,lpush,lrange_100,sadd,hset,zadd']


class Redis:
    """One redis-server in its own folder, spoken to over a unix socket."""

    def __init__(self, folder, library):
        self.folder, self.socket = folder, os.path.join(folder, 's')
        self.log = open(os.path.join(folder, 'log'), 'ab')
        self.process = subprocess.Popen(
            ['redis-server', '--port', '0', '--unixsocket', self.socket, '--dir', folder, '--save', '1 100',
             '--appendonly', 'yes', '--enable-debug-command', 'yes', '--daemonize', 'no'],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=harness.environment(library),
            start_new_session=True)
        self.wait_until(lambda: self.ask('PING') == 'PONG', 60)

    def ask(self, *command, stdin=None, timeout=120):
        outcome = harness.run(['redis-cli', '-s', self.socket, *command], None, timeout, stdin=stdin)
        if outcome.status != 0:
            return f'redis-cli: {outcome.how()}'
        return outcome.out.decode(errors='replace').strip()

    def wait_until(self, condition, seconds):
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f'redis-server: exit {self.process.poll()}, {self.last_lines()}')
            time.sleep(0.1)

    def last_lines(self):
        with open(os.path.join(self.folder, 'log'), 'rb') as log:
            return ' | '.join(log.read().decode(errors='replace').splitlines()[-3:])

    def peak_kib(self):
        with open(f'/proc/{self.process.pid}/status', encoding='ascii') as status:
            return next(int(line.split()[1]) for line in status if line.startswith('VmHWM'))

    def maps(self, library):
        with open(f'/proc/{self.process.pid}/maps', encoding='ascii') as maps:
            return os.path.realpath(library) in maps.read()

    def save_in_background(self):
        self.wait_until(lambda: 'rdb_bgsave_in_progress:0' in self.ask('INFO', 'persistence'), 60)
        self.ask('BGSAVE')
        self.wait_until(lambda: 'rdb_bgsave_in_progress:0' in self.ask('INFO', 'persistence'), 60)
        if 'rdb_last_bgsave_status:ok' not in self.ask('INFO', 'persistence'):
            raise RuntimeError('BGSAVE failed: ' + self.last_lines())

    def stop(self):
        self.ask('SHUTDOWN')
        try:
            self.process.wait(30)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.log.close()


def redis_state(folder, library):
    """Load, background save and rewrite, benchmark, restart: returns (what must be equal, peak KiB)."""
    server = Redis(folder, library)
    try:
        if library and not server.maps(library):
            raise RuntimeError('the library is not in redis-server')
        harness.run(['redis-benchmark', '-s', server.socket, *REDIS_BENCHMARK], None, 300)
        server.save_in_background()
        server.ask('FLUSHALL')
        lines = ''.join(f'SET key:{i} {"v" * (i % 300)}{i}\nRPUSH list:{i % 500} {i}\n'
                        f'HSET hash:{i % 700} f{i} {i}\n' for i in range(REDIS_KEYS))
        server.ask('--pipe', stdin=lines.encode())
        server.save_in_background()
        server.ask('BGREWRITEAOF')
        server.wait_until(lambda: 'aof_rewrite_in_progress:0' in server.ask('INFO', 'persistence'), 60)
        state = [server.ask('DBSIZE'), server.ask('DEBUG', 'DIGEST')]
        peak = server.peak_kib()
    finally:
        server.stop()
    if server.process.returncode != 0:
        raise RuntimeError(f'redis-server ends with {server.process.returncode}: {server.last_lines()}')
    again = Redis(folder, library)
    try:
        state += [again.ask('DBSIZE'), again.ask('DEBUG', 'DIGEST')]
    finally:
        again.stop()
    return state, peak


def redis(compare, results, options):
    name = f'redis-server, {REDIS_KEYS * 3} writes, BGSAVE, restart'
    for program in ['redis-server', 'redis-benchmark', 'redis-cli']:
        if not shutil.which(program):
            compare.missing(name, program)
            return
    states = []
    for label, library in (('plain', None), ('ours', options.library)):
        folder = os.path.join(options.work, f'redis-{label}')
        os.mkdir(folder)
        try:
            states.append(redis_state(folder, library))
        except RuntimeError as error:
            if library:
                results.add(name, False, f'{label}: {error}')
            else:
                results.skip(name, f'fails without the library too: {error}')
            return
    (plain, plain_peak), (ours, our_peak) = states
    kept = ours[:2] == ours[2:] and int(ours[0].split()[-1]) > REDIS_KEYS
    memory = f'{plain_peak / 1024:.0f} MiB, with the library {our_peak / 1024:.0f} MiB'
    results.add(name, plain == ours and kept, memory if plain == ours and kept else f'{plain} against {ours}')


PAGE = '''<!DOCTYPE html><html><head><title>local</title></head><body><ul id="l"></ul><script>
const list = document.getElementById("l"); let sum = 0;
for (let i = 0; i < 3000; i++) { const e = document.createElement("li");
  e.textContent = "item " + i * 7 % 1000;
  list.appendChild(e); sum += JSON.stringify({i, text: "x".repeat(i % 100)}).length; }
document.title = "sum " + sum;
</script></body></html>'''


def chromium(compare, *more):
    names = ('chromium', 'chromium-browser', 'google-chrome')
    program = next((name for name in names if shutil.which(name)), 'chromium')

    def prepare(folder):
        with open(os.path.join(folder, 'page.html'), 'w', encoding='ascii') as page:
            page.write(PAGE)
    page = os.path.join(compare.options.work, 'run', 'page.html')
    data = os.path.join(compare.options.work, 'run', 'profile')
    command = [program, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
               '--disable-background-networking', '--disable-component-update', '--disable-sync',
               f'--user-data-dir={data}', *more, '--dump-dom', f'file://{page}']
    compare.run('chromium --headless --dump-dom', command, 120, prepare=prepare)
    for core in glob.glob(os.path.join(data, 'core*')):
        os.unlink(core)
