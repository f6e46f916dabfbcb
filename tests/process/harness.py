"""Shared by the process-level test drivers: runs programs under a preloaded library, keeps a table of named
results, and ends with the line 'N passed, N failed[, N skipped]'. Standard library only. Skipped is for what
the system cannot provide and always carries the reason."""
import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time


class Results:
    """A table of named results; finish() prints the last line and returns the exit status."""

    def __init__(self, title):
        self.passed, self.failed, self.skipped = 0, 0, 0
        print(f'== {title}', flush=True)

    def add(self, name, ok, detail=''):
        self.passed += bool(ok)
        self.failed += not ok
        self._row('ok' if ok else 'FAILED', name, detail)
        return bool(ok)

    def skip(self, name, reason):
        self.skipped += 1
        self._row('skipped', name, reason)

    def _row(self, word, name, detail):
        print(f'{word:8} {name:52} {detail}'.rstrip(), flush=True)

    def finish(self):
        tail = f', {self.skipped} skipped' if self.skipped else ''
        print(f'{self.passed} passed, {self.failed} failed{tail}', flush=True)
        return 1 if self.failed or not self.passed else 0


class Outcome:
    """How one program ended. status is negative for a signal, as in subprocess; None after a time-out.
    peak_kib is the largest RSS of the program or of a descendant that it waited for, and never less than the
    driver's own."""

    def __init__(self, status, out, err, seconds, peak_kib=0):
        self.status, self.out, self.err, self.seconds, self.peak_kib = status, out, err, seconds, peak_kib

    def how(self):
        if self.status is None:
            return f'hang, killed after {self.seconds:.0f} s'
        if self.status < 0:
            return f'killed by {signal.Signals(-self.status).name}'
        return f'exit {self.status}'

    def tail(self, lines=2):
        text = (self.err or b'').decode(errors='replace').strip().splitlines()
        return ' | '.join(text[-lines:])[:300]


def environment(library, extra=None):
    env = {k: v for k, v in os.environ.items() if k not in ('LD_PRELOAD', 'MALLOC_PERTURB_', 'GLEBE_OPTIONS')}
    if library:
        env['LD_PRELOAD'] = library
    env.update(extra or {})
    return env


def _die_first():
    # Should a program under test run away with memory, the kernel shall end it and nothing else.
    with open('/proc/self/oom_score_adj', 'w', encoding='ascii') as score:
        score.write('1000')


def _default_signals():
    # A shell that runs the driver in the background makes it ignore these, and that is inherited. Python's
    # own tests of threads then fail, with or without the library.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _wait(process, timeout):
    """Returns (status or None, peak RSS in KiB); after the time-out the program's whole session is killed."""
    end = time.monotonic() + timeout
    pause = 0.001
    while time.monotonic() < end:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return None, 0


def run(command, library=None, timeout=60, extra=None, stdin=None, cwd=None, before=None):
    """Runs the command in its own session. Only the command gets the library: the driver itself runs on the
    system's malloc. Output goes to files, so that a grandchild which keeps a pipe open cannot hang the
    driver."""
    def prepare():
        _die_first()
        _default_signals()
        if before:
            before()

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as given:
        given.write(stdin or b'')
        given.seek(0)
        start = time.monotonic()
        process = subprocess.Popen([str(c) for c in command], stdin=given, stdout=out, stderr=err, cwd=cwd,
                                   env=environment(library, extra), start_new_session=True,
                                   preexec_fn=prepare)
        status, peak = _wait(process, timeout)
        seconds = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        return Outcome(status, out.read(), err.read(), seconds, peak)


def parser(description):
    args = argparse.ArgumentParser(description=description)
    args.add_argument('--library', required=True,
                      help='the allocator to preload; "none" means the system malloc')
    args.add_argument('--programs', required=True, help='folder with the built test programs')
    return args


def parse(args):
    options = args.parse_args()
    options.library = None if options.library == 'none' else os.path.abspath(options.library)
    if options.library and not os.path.exists(options.library):
        sys.exit(f'no such library: {options.library}')
    if getattr(options, 'programs', None):
        options.programs = os.path.abspath(options.programs)
    return options


def is_glebe(library):
    """True when the library exports the C interface, so that what only glebe promises may be asked of it."""
    if not library:
        return False
    names = subprocess.run(['nm', '-D', '--defined-only', library], text=True, capture_output=True).stdout
    return ' glebe_version' in names
