"""A redis-server with many keys under zipf traffic whose every answer is compared: used by the tests and the
bench of the paging tier. Values follow from the number of the key and of its version, so nothing needs to be
remembered but the version. Standard library only."""
import bisect
import itertools
import os
import random
import socket
import subprocess
import time


def value_of(key, version):
    """About 300 bytes that compress as text does."""
    field = f'field{key % 97}={(key * 7919 + version) % 100003};'
    return (f'user {key} version {version} ' + field * 12).encode()


def command(*words):
    parts = [b'*%d\r\n' % len(words)]
    for word in words:
        word = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b'$%d\r\n%s\r\n' % (len(word), word))
    return b''.join(parts)


class Zipf:
    """Ranks with probability 1 / rank ** exponent, scattered over the keys."""

    def __init__(self, keys, exponent, seed):
        self.random = random.Random(seed)
        self.totals = list(itertools.accumulate(1 / (rank + 1) ** exponent for rank in range(keys)))
        self.order = list(range(keys))
        self.random.shuffle(self.order)

    def key(self):
        return self.order[bisect.bisect(self.totals, self.random.random() * self.totals[-1])]


class Server:
    """One redis-server in a folder; `start` runs a command list, so that the caller decides how it runs."""

    def __init__(self, folder, start, more=()):
        self.folder, self.path = folder, os.path.join(folder, 's')
        self.process = start(['redis-server', '--port', '0', '--unixsocket', self.path, '--dir', folder,
                              '--save', '',
                              '--appendonly', 'no', '--daemonize', 'no', '--enable-debug-command', 'yes',
                              *more])
        end = time.monotonic() + 60
        while True:
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(self.path)
                break
            except OSError:
                self.socket.close()
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f'redis-server did not start, status {self.process.poll()}') from None
                time.sleep(0.05)
        self.file = self.socket.makefile('rb')
        self.socket.settimeout(300)
        while b'loading:1' in self.ask('INFO', 'persistence'):
            time.sleep(0.05)

    def answer(self):
        line = self.file.readline()
        if not line.endswith(b'\r\n'):
            raise RuntimeError('redis-server is gone')
        kind, text = line[:1], line[1:-2]
        if kind == b'-':
            raise RuntimeError(text.decode())
        if kind == b'$':
            return None if text == b'-1' else self.file.read(int(text) + 2)[:-2]
        return text

    def ask(self, *words):
        self.socket.sendall(command(*words))
        return self.answer()

    def all(self, commands):
        """Sends many at once; returns the answers."""
        self.socket.sendall(b''.join(commands))
        return [self.answer() for _ in commands]

    def save_in_background(self):
        self.ask('BGSAVE')
        while b'rdb_bgsave_in_progress:1' in self.ask('INFO', 'persistence'):
            time.sleep(0.1)
        return b'rdb_last_bgsave_status:ok' in self.ask('INFO', 'persistence')

    def stop(self):
        try:
            self.socket.sendall(command('SHUTDOWN', 'NOSAVE'))
        except OSError:
            pass
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.socket.close()
        return self.process.returncode


class Traffic:
    """Loads keys and works on them; wrong() counts the answers that were not what was stored last."""

    PIPELINE = 50

    def __init__(self, server, keys, exponent=1.0, seed=1):
        self.server, self.keys, self.wrong, self.asked = server, keys, 0, 0
        self.versions = [0] * keys
        self.zipf = Zipf(keys, exponent, seed)

    def load(self):
        for first in range(0, self.keys, 500):
            batch = range(first, min(first + 500, self.keys))
            self.server.all([command('SET', f'key:{key}', value_of(key, 0)) for key in batch])

    def _compare(self, expected, answers):
        for want, got in zip(expected, answers):
            self.asked += 1
            self.wrong += want is not None and want != got

    def work(self, operations, write_percent=10):
        for _ in range(operations // self.PIPELINE):
            commands, expected = [], []
            for _ in range(self.PIPELINE):
                key = self.zipf.key()
                if self.zipf.random.randrange(100) < write_percent:
                    self.versions[key] += 1
                    commands.append(command('SET', f'key:{key}', value_of(key, self.versions[key])))
                    expected.append(None)
                else:
                    commands.append(command('GET', f'key:{key}'))
                    expected.append(value_of(key, self.versions[key]))
            self._compare(expected, self.server.all(commands))

    def compare_all(self):
        for first in range(0, self.keys, 500):
            batch = range(first, min(first + 500, self.keys))
            expected = [value_of(key, self.versions[key]) for key in batch]
            self._compare(expected, self.server.all([command('GET', f'key:{key}') for key in batch]))
