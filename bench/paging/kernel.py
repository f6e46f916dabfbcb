"""What the kernel can do instead: swap on a file, zswap, zram, each with a memory cgroup. All are settings of
the whole machine; every one is a context manager that restores what it found, whatever happens inside."""
import contextlib
import os
import re
import subprocess
import threading
import time

ZSWAP = '/sys/module/zswap/parameters'
ZRAM = '/sys/block/zram0'
SWAP_FILE = '/var/tmp/glebe-bench.swap'


def read(path, default=''):
    try:
        with open(path, encoding='ascii') as file:
            return file.read().strip()
    except OSError:
        return default


def write(path, value):
    with open(path, 'w', encoding='ascii') as file:
        file.write(str(value))


def command(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f'{" ".join(words)}: {done.stderr.strip()}')


class Refused(Exception):
    """The machine does not allow a baseline; the text says why."""


def swaps():
    return [line.split()[0] for line in read('/proc/swaps').splitlines()[1:]]


@contextlib.contextmanager
def swap_on(path):
    command('mkswap', path)
    command('swapon', path)
    try:
        yield
    finally:
        command('swapoff', path)


@contextlib.contextmanager
def swap_file(size_bytes):
    try:
        with open(SWAP_FILE, 'wb') as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        os.chmod(SWAP_FILE, 0o600)
        with swap_on(SWAP_FILE):
            yield
    finally:
        if os.path.exists(SWAP_FILE):
            os.unlink(SWAP_FILE)


@contextlib.contextmanager
def zswap(on):
    if not os.path.exists(f'{ZSWAP}/enabled'):
        if on:
            raise Refused('no zswap in this kernel')
        yield
        return
    before = {name: read(f'{ZSWAP}/{name}') for name in ('enabled', 'compressor')}
    try:
        if on:
            with contextlib.suppress(OSError):
                write(f'{ZSWAP}/compressor', 'lz4')  # the default stays where the kernel has no lz4
        write(f'{ZSWAP}/enabled', 'Y' if on else 'N')
        yield
    finally:
        for name, value in before.items():
            with contextlib.suppress(OSError):
                write(f'{ZSWAP}/{name}', value)


@contextlib.contextmanager
def zram(size_bytes):
    if not os.path.exists(ZRAM):
        raise Refused('no zram device (the module zram is not loaded)')
    if int(read(f'{ZRAM}/disksize', '0')) != 0:
        raise Refused('/dev/zram0 is in use')
    try:
        with contextlib.suppress(OSError):
            write(f'{ZRAM}/comp_algorithm', 'lz4')
        write(f'{ZRAM}/disksize', size_bytes)
        with swap_on('/dev/zram0'):
            yield
    finally:
        with contextlib.suppress(OSError):
            write(f'{ZRAM}/reset', 1)


def zswap_bytes():
    stored = re.search(r'^Zswap:\s+(\d+)', read('/proc/meminfo'), re.M)
    return int(stored[1]) * 1024 if stored else 0


def zram_bytes():
    fields = read(f'{ZRAM}/mm_stat').split()
    return int(fields[2]) if len(fields) > 2 else 0


def pool_bytes():
    """RAM in which zswap and zram hold what they took."""
    return zswap_bytes() + zram_bytes()


class Cgroup:
    """A memory cgroup for one run, version 1 or 2."""

    def __init__(self, limit_bytes=None):
        version_1 = '/sys/fs/cgroup/memory'
        self.is_1 = os.path.exists(f'{version_1}/memory.limit_in_bytes')
        root = version_1 if self.is_1 else '/sys/fs/cgroup'
        if not self.is_1 and 'memory' not in read(f'{root}/cgroup.subtree_control').split():
            raise Refused('no memory cgroup may be made here')
        self.path = os.path.join(root, f'glebe-bench-{os.getpid()}-{time.monotonic_ns()}')
        os.mkdir(self.path)
        if limit_bytes:
            self.limit(limit_bytes)

    def limit(self, size_bytes):
        write(f'{self.path}/{"memory.limit_in_bytes" if self.is_1 else "memory.max"}', size_bytes)

    def enter(self):
        """Runs in the child before exec."""
        write(f'{self.path}/cgroup.procs', os.getpid())

    def processes(self):
        return read(f'{self.path}/cgroup.procs').split()

    def remove(self):
        for process in self.processes():
            with contextlib.suppress(OSError):
                os.kill(int(process), 9)
        for _ in range(100):
            with contextlib.suppress(OSError):
                os.rmdir(self.path)
                return
            time.sleep(0.05)
        raise OSError(f'{self.path} cannot be removed')


class LimitSearch:
    """The limit of a cgroup with which a run holds about its budget, with pools that no cgroup pays for: each
    run tells the next. (To lower the limit during a run does not work: the write waits in the kernel
    until so much went out, and a busy program brings it back as fast.)"""
    RUNS_MOST = 4
    CLOSE = 0.06

    def __init__(self, budget):
        self.budget, self.limit, self.seen = budget, budget, []

    def is_done(self):
        """After note()."""
        peak = self.seen[-1][1]
        return abs(peak - self.budget) <= self.CLOSE * self.budget or len(self.seen) == self.RUNS_MOST

    def note(self, peak_held):
        """What is held is nearly linear in the limit; the first step supposes that all else compresses to a
        third."""
        self.seen.append((self.limit, peak_held))
        slope = 2 / 3
        if len(self.seen) > 1 and self.seen[-1][0] != self.seen[-2][0]:
            slope = (self.seen[-1][1] - self.seen[-2][1]) / (self.seen[-1][0] - self.seen[-2][0])
        slope = min(1.0, max(0.3, slope))
        wanted = self.limit + (self.budget - peak_held) / slope
        self.limit = int(min(self.budget, max(wanted, self.budget / 8)))


class Watch(threading.Thread):
    """Samples what the processes of a cgroup hold: anonymous resident memory, and the kernel's pools."""

    def __init__(self, cgroup):
        super().__init__(daemon=True)
        self.cgroup, self.done = cgroup, threading.Event()
        self.pool_before = pool_bytes()
        self.peak_resident, self.peak_held, self.sum_held, self.samples = 0, 0, 0, 0

    def run(self):
        while not self.done.wait(0.05):
            resident = 0
            for process in self.cgroup.processes():
                found = re.search(r'^RssAnon:\s+(\d+)', read(f'/proc/{process}/status'), re.M)
                resident += int(found[1]) * 1024 if found else 0
            held = resident + max(0, pool_bytes() - self.pool_before)
            self.peak_resident = max(self.peak_resident, resident)
            self.peak_held = max(self.peak_held, held)
            self.sum_held += held
            self.samples += 1

    def stop(self):
        self.done.set()
        self.join()

    def figures(self):
        return {'peak_resident_bytes': self.peak_resident, 'peak_held_bytes': self.peak_held,
                'average_held_bytes': self.sum_held // max(1, self.samples)}
