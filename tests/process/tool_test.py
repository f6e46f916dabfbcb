"""The command line tool: exit statuses, error texts (what, where, what to do), signals, the environment that
the program gets, and the summary. Nothing here depends on whether paging can be switched on."""
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

import harness

SHOW = 'import os; print(os.environ["LD_PRELOAD"]); print(os.environ["GLEBE_OPTIONS"])'
HANDLER = '''
import signal, sys, time
def handle(number, frame):
    print("got", number, flush=True)
    sys.exit(40 + number)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, handle)
print("ready", flush=True)
for _ in range(600):
    time.sleep(0.05)  # short: a signal just before a sleep is handled after it
'''
STATIC = 'int main(void) { return 0; }'


class Tool:
    """Runs the tool with the library under test."""

    def __init__(self, options, work):
        self.path, self.library, self.work = options.tool, options.library, work
        self.python = os.path.realpath(shutil.which('python3', path='/usr/bin:/bin') or sys.executable)

    def run(self, *arguments, extra=None, named=True):
        command = [self.path, 'run'] + (['--library', self.library] if named else []) + list(arguments)
        return harness.run(command, None, 60, extra, cwd=self.work)

    def start(self, *arguments):
        command = [self.path, 'run', '--library', self.library, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env=harness.environment(None), start_new_session=True)

    def compile(self, name, text, *flags):
        path = os.path.join(self.work, name)
        with open(path + '.c', 'w', encoding='ascii') as source:
            source.write(text)
        made = subprocess.run(['cc', '-o', path, path + '.c', *flags], capture_output=True)
        return path if made.returncode == 0 else None


def has(outcome, *texts):
    return all(text.encode() in outcome.err for text in texts)


def statuses(results, tool):
    cases = [('exit status 0', ['--', '/bin/true'], 0), ('exit status 1', ['--', '/bin/false'], 1),
             ('exit status 77', ['--', '/bin/sh', '-c', 'exit 77'], 77),
             ('128 + n after a signal', ['--', '/bin/sh', '-c', 'kill -SEGV $$'], 128 + signal.SIGSEGV),
             ('128 + 9 after SIGKILL', ['--', '/bin/sh', '-c', 'kill -KILL $$'], 137),
             ('no such program: 127', ['--', './missing'], 127),
             ('no such program in PATH: 127', ['--', 'no-such-program-anywhere'], 127),
             ('a folder is not executable: 126', ['--', '/tmp/'], 126),
             ('without "--"', ['/bin/sh', '-c', 'exit 9'], 9),
             ('"--" behind the program is its argument', ['/bin/sh', '-c', 'exit $#', 'name', '--', 'x'], 2),
             ('unknown option: 125', ['--no-such-option', '--', '/bin/true'], 125)]
    for name, arguments, expected in cases:
        outcome = tool.run(*arguments)
        results.add(name, outcome.status == expected, f'{outcome.how()} {outcome.tail(1)}')


def messages(results, tool):
    folder = tool.work
    plain = os.path.join(folder, 'plain.txt')
    with open(plain, 'w', encoding='ascii') as file:
        file.write('no program\n')
    cases = [('size: unknown unit', ['--memory', '512X'], ['--memory 512X', '"X"', 'K, M, G or T']),
             ('size: no number', ['--memory', 'much'], ['--memory much', 'not a number', '50%']),
             ('size: negative', ['--memory=-5M'], ['-5M', 'not a number']),
             ('size: too large', ['--memory', '99999999999T'], ['more than any machine']),
             ('size: percentage above 100', ['--memory', '150%'], ['150%', 'at most 100']),
             ('size: too little', ['--memory', '64K'], ['64K', 'at least 16.0 MiB']),
             ('directory is missing', ['--directory', '/no/such'], ['/no/such', 'No such file',
                                                                    'name a folder']),
             ('directory is a file', ['--directory', plain], ['not a folder']),
             ('codec is unknown', ['--codec', 'rar'], ['rar', 'lz4']),
             ('option without =', ['--option', 'debug'], ['--option debug', 'name=value', 'docs/options.md']),
             ('option with a comma', ['--option', 'debug=1,stats=1'], ['comma']),
             ('library is missing', ['--library', '/no/lib.so'], ['/no/lib.so', 'no such file']),
             ('library is no library', ['--library', plain], ['no shared library']),
             ('library is another one', ['--library', '/lib64/ld-linux-x86-64.so.2'], ['not libglebe.so']),
             ('library is a folder', ['--library', folder], ['a directory', 'libglebe.so in it']),
             ('json file cannot be written', ['--json', '/no/such/x.json'], ['--json', '/no/such/x.json'])]
    for name, arguments, texts in cases:
        if name == 'library is another one' and not os.path.exists('/lib64/ld-linux-x86-64.so.2'):
            results.skip(name, 'another loader on this machine')
            continue
        outcome = tool.run(*arguments, '--', '/bin/true', named='--library' not in arguments)
        ok = outcome.status == 125 and has(outcome, *texts)
        results.add(name, ok, '' if ok else f'{outcome.how()} {outcome.tail(3)}')
    outcome = tool.run()
    results.add('program is missing', outcome.status == 125 and has(outcome, 'program is missing',
                                                                    '-- program'),
                outcome.tail(1))
    spaced = os.path.join(folder, 'a b.so')
    shutil.copy(tool.library, spaced)
    outcome = tool.run('--library', spaced, '--', '/bin/true', named=False)
    results.add('library path with a space', outcome.status == 125 and has(outcome, 'space'), outcome.tail(1))


def programs_that_ignore_it(results, tool):
    static = tool.compile('static', STATIC, '-static')
    pie = tool.compile('static_pie', STATIC, '-static-pie')
    for name, path in (('linked statically', static), ('linked statically, position independent', pie)):
        if not path:
            results.skip(name, 'no static libc to link')
            continue
        outcome = tool.run('--', path)
        results.add(name, outcome.status == 125 and has(outcome, 'linked statically', 'libglebe.a'),
                    outcome.tail(1))
    if static:
        script = os.path.join(tool.work, 'script')
        with open(script, 'w', encoding='ascii') as file:
            file.write(f'#!{static}\n')
        os.chmod(script, 0o755)
        outcome = tool.run('--', script)
        results.add('script of a static interpreter', outcome.status == 125 and has(outcome, 'which runs'),
                    outcome.tail(1))
    dynamic = tool.compile('dynamic', STATIC)
    if os.geteuid() != 0 or not dynamic:
        results.skip('set-user-id program', 'needs root and a C compiler to make one')
        return
    os.chown(dynamic, 65534, 65534)
    os.chmod(dynamic, 0o755 | stat.S_ISUID)
    outcome = tool.run('--', dynamic)
    results.add('set-user-id program', outcome.status == 125 and has(outcome, 'set-user-id', 'LD_PRELOAD'),
                outcome.tail(1))


def environment(results, tool):
    show = ['--', tool.python, '-c', SHOW]
    extra = {'LD_PRELOAD': 'libm.so.6', 'GLEBE_OPTIONS': 'debug=0,stats=0'}
    outcome = tool.run('--memory', '64M', '--option', 'purge_delay_ms=7', *show, extra=extra)
    lines = outcome.out.decode().splitlines()
    library = os.path.abspath(tool.library)
    ok = outcome.status == 0 and len(lines) == 2
    results.add('LD_PRELOAD: ours first, what was there behind it', ok and lines[0] == f'{library}:libm.so.6',
                lines[0] if ok else f'{outcome.how()} {outcome.tail()}')
    entries = lines[1].split(',') if ok else []
    results.add('GLEBE_OPTIONS: what was there first, --option after ours',
                entries[:5] == ['debug=0', 'stats=0', 'paging=auto', f'memory={64 << 20}',
                                'purge_delay_ms=7'] and
                entries[5].startswith('stats_file='), ','.join(entries[:5]))
    inner = [tool.path, 'run', '--library', library, '--memory', '32M', *show]
    outcome = tool.run('--memory', '64M', '--option', 'purge_delay_ms=7', '--', *inner)
    lines = outcome.out.decode().splitlines()
    ok = outcome.status == 0 and len(lines) == 2 and lines[0] == library
    last = {entry.split('=')[0]: entry.split('=')[1] for entry in lines[1].split(',')} if ok else {}
    results.add('one tool in another: the library once, the inner options last',
                ok and last['memory'] == str(32 << 20) and last['purge_delay_ms'] == '7',
                '' if ok else f'{outcome.how()} {outcome.tail()}')
    half = tool.run('--memory', '50%', *show)
    value = [e for e in half.out.decode().splitlines()[1].split(',')
             if e.startswith('memory=')] if half.out else []
    results.add('a percentage goes on to the library, which follows it', value == ['memory=50.0000%'],
                ' '.join(value))
    left = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith('glebe-run-')
            and os.stat(os.path.join(tempfile.gettempdir(), name)).st_mtime > tool.started]
    results.add('nothing is left in the temporary folder', not left, ' '.join(left[:3]))


def signals(results, tool):
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        process = tool.start('--', tool.python, '-c', HANDLER)
        process.stdout.readline()
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        ok = process.returncode == 40 + number and out == f'got {number.value}\n'
        results.add(f'{number.name} is sent on', ok, f'status {process.returncode}, {out!r}' if not ok
                    else '')
    # Nobody can tell a signal to the group from one to us alone, so the program may get it a second time,
    # while it ends already.
    process = tool.start('--', tool.python, '-c', HANDLER)
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    ended = process.returncode in (40 + signal.SIGTERM, 128 + signal.SIGTERM)
    results.add('a signal to the group reaches it', out.startswith(f'got {signal.SIGTERM.value}\n') and ended,
                f'status {process.returncode}')
    process = tool.start('--', '/bin/sh', '-c', 'echo x; kill -STOP $$; exit 5')
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=30)
    results.add('SIGCONT wakes a stopped program', process.returncode == 5, f'status {process.returncode}')


def saved(results, tool):
    """What was saved while the program ran is told although its memory is free again at its end."""
    path = os.path.join(tool.work, 'saved.json')
    hold = 'x = [b"%060d" % i * 1000 for i in range(1700)]; import time; time.sleep(2); del x; ' \
           'time.sleep(0.3)'
    outcome = tool.run('--memory', '24M', '--json', path, '--', tool.python, '-c', hold,
                       extra={'PYTHONMALLOC': 'malloc'})
    with open(path, encoding='utf-8') as file:
        row = json.load(file)['processes'][0]
    if row['paging_mode'] != 1:
        results.skip('the summary tells what was saved at the peak', 'no paging by our own store here')
        return
    peak, average = row['paging_saved_peak_bytes'], row['paging_saved_average_bytes']
    at_exit = row['paging_out_bytes'] - row['paging_compressed_bytes']
    results.add('the summary tells what was saved at the peak',
                has(outcome, 'saved', 'at the peak', 'on average') and peak > 32 << 20 and
                at_exit < peak // 2 and peak // 16 < average < peak,
                f'peak {peak >> 20} MiB, average {average >> 20} MiB, at exit {at_exit >> 20} MiB')


def summary(results, tool):
    path = os.path.join(tool.work, 'summary.json')
    grow = 'x = bytearray(b"1") * (60 << 20); import time; time.sleep(0.5)'
    outcome = tool.run('--memory', '512M', '--json', path, '--', tool.python, '-c', grow)
    ok = outcome.status == 0 and has(outcome, 'glebe run: exit status 0', 'peak', 'average', 'budget')
    results.add('summary on standard error, nothing on standard output', ok and outcome.out == b'',
                outcome.tail(4))
    with open(path, encoding='utf-8') as file:
        numbers = json.load(file)
    peak, average = numbers['peak_resident_bytes'] >> 20, numbers['average_resident_bytes'] >> 20
    results.add('JSON: peak and average are those of the program',
                60 <= peak <= 160 and average <= peak and numbers['exit_status'] == 0 and
                numbers['memory_bytes'] == 512 << 20, f'peak {peak} MiB, average {average} MiB')
    outcome = tool.run('--memory', '50%', '--json', path, '--', '/bin/true')
    with open(path, encoding='utf-8') as file, open('/proc/meminfo', encoding='ascii') as machine:
        numbers, total = json.load(file), int(machine.readline().split()[1]) * 1024
    results.add('a percentage is of what the system allows',
                16 << 20 <= numbers['memory_bytes'] <= total // 2 + 4096, f"{numbers['memory_bytes']} bytes")
    saved(results, tool)
    tree = f'{tool.python} -c \'{grow}\' & {tool.python} -c \'{grow}\' & wait'
    tool.run('--json', path, '--', '/bin/sh', '-c', tree)
    with open(path, encoding='utf-8') as file:
        numbers = json.load(file)
    results.add('children count', numbers['peak_processes'] >= 3 and
                numbers['peak_resident_bytes'] >= 120 << 20,
                f"{numbers['peak_processes']} processes, {numbers['peak_resident_bytes'] >> 20} MiB")
    counted = [row for row in numbers['processes'] if 'paging_mode' in row]
    # Some shells end by _exit(), which leaves none.
    results.add('the library left its numbers for each process', len(counted) >= 2,
                f'{len(counted)} snapshots')
    outcome = tool.run('--', '/bin/sh', '-c', 'kill -KILL $$')
    results.add('a killed program: the summary says so', has(outcome, 'ended by signal 9', 'no numbers'),
                outcome.tail(3))


def main():
    parser = harness.parser(__doc__)
    parser.add_argument('--tool', required=True, help='the executable glebe')
    options = harness.parse(parser)
    options.tool = os.path.abspath(options.tool)
    results = harness.Results('glebe run')
    with tempfile.TemporaryDirectory(prefix='glebe-tool-') as work:
        tool = Tool(options, work)
        tool.started = time.time()
        for part in (statuses, messages, programs_that_ignore_it, environment, signals, summary):
            part(results, tool)
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
