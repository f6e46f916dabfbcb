"""What is freed is never read back, an idle program gives its memory back, and programs whose page store
fails lose nothing: no space, no directory, file size limit, bits flipped in the page file of a running
process. (G11, G18, mut-A04; "Saves" and the failure list of the issue.)"""
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import harness
import paging


def frees(results, options):
    for kind in ('small', 'medium', 'large'):
        mib = max(options.mib, 128 if kind == 'large' else 0)
        for where, directory in (('in RAM', None), ('in files', options.work)):
            text = paging.options_text(max(16, mib // 4) << 20, directory)
            paged = paging.run([f'{options.programs}/paging_cold', 'free', kind, mib], options.library, text,
                               600)
            outcome = paged.outcome
            results.add(f'{mib} MiB of cold {kind} blocks {where}: freed without page-ins',
                        outcome.status == 0,
                        outcome.tail(3) if outcome.status == 0 else paging.faults(outcome))


def idle(results, options):
    command = [f'{options.programs}/paging_cold', 'idle', options.mib * 2, options.idle_seconds, 40]
    for name, memory in (('automatic', None), ('budget of 35 %', options.mib * 2 * 35 // 100 << 20)):
        text = paging.options_text(memory, options.work)
        paged = paging.run(command, options.library, text, options.idle_seconds + 240)
        results.add(f'idle program, {name}: at most 40 % of its RSS', paged.outcome.status == 0,
                    paged.outcome.tail(2))


def torture_command(options, directory):
    return [f'{options.programs}/paging_torture', '--seconds', options.seconds, '--threads', 4, '--set-bytes',
            options.mib << 20, '--directory', directory, '--forks-every', 500]


@contextlib.contextmanager
def small_tmpfs(size):
    folder = tempfile.mkdtemp(prefix='glebe-small-')
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'glebe-test', folder],
                             capture_output=True).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(['umount', folder], check=False)
        os.rmdir(folder)


def survives(results, options, name, directory, before=None, message=None):
    """The program must go on, whatever becomes of its page files."""
    text = paging.options_text(options.mib * 40 // 100 << 20, directory)
    paged = paging.run(torture_command(options, options.work), options.library, text,
                       options.seconds * 3 + 300,
                       before=before)
    outcome = paged.outcome
    results.add(name, outcome.status == 0,
                f'{paged.traffic()}, {paged.number("paging_store_errors")} store errors'
                if outcome.status == 0
                else paging.faults(outcome))
    if message:
        results.add(f'{name}: said', paging.said(outcome, message), outcome.tail(4))
    return paged


def failing_store(results, options):
    survives(results, options, 'page directory is missing', '/no/such/directory', message='page_directory')
    with small_tmpfs('3m') as folder:
        if folder:
            paged = survives(results, options, 'no space for page files', folder)
            results.add('no space for page files: counted', paged.number('paging_store_errors') > 0,
                        str(paged.number('paging_store_errors')))
            subprocess.run(['mount', '-o', 'remount,ro', folder], check=False)
            survives(results, options, 'page directory is read-only', folder, message='page_directory')
        else:
            results.skip('no space, read-only page directory', 'tmpfs cannot be mounted here (needs root)')

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))
    survives(results, options, 'limit of 8 MiB for each file', options.work, limit)


def flip(paths, every):
    """Flips one bit in each piece of `every` bytes that holds data. Returns the number of bits."""
    bits = 0
    for path in paths:
        with open(path, 'r+b', buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            for at in range(every // 2, size, every):
                byte = os.pread(file.fileno(), 1, at)
                bits += os.pwrite(file.fileno(), bytes([byte[0] ^ 0x10]), at)
    return bits


def held_process(options, directory):
    text = paging.options_text(16 << 20, directory)
    process = subprocess.Popen([f'{options.programs}/paging_cold', 'hold', str(options.mib)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=harness.environment(options.library, {'GLEBE_OPTIONS': text}))
    ready = process.stdout.readline() == b'ready\n'
    return process, ready


def bit_flips(results, options):
    for name, every in (('one bit in each 4 KiB', 4096), ('one bit in each 64 KiB', 65536), ('no bit', 0)):
        process, ready = held_process(options, options.work)
        paths = paging.page_files(process.pid, options.work) if ready else []
        bits = flip(paths, every) if every else 0
        try:
            _, err = process.communicate(b'\n', timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            _, err = process.communicate()
            err += b' HANG'
        tail = err.decode(errors='replace').strip()[-300:].replace('\n', ' | ')
        detail = f'{bits} bits in {len(paths)} files, status {process.returncode}: {tail}'
        if not every:
            results.add('page file untouched: every byte right', ready and paths and process.returncode == 0,
                        detail)
            continue
        found = process.returncode in (-signal.SIGABRT, -signal.SIGBUS) and b'glebe' in err
        results.add(f'{name} of the page file flipped: reported and ended',
                    bits > 0 and found and b'WRONG' not in err, detail)


def killed(results, options):
    """kill -9 leaves no file behind and gives the space back."""
    process, ready = held_process(options, options.work)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(0.2)
    left = os.listdir(options.work)
    results.add('kill -9 leaves no page file', ready and not left, ' '.join(left))


def main():
    parser = harness.parser(__doc__)
    parser.add_argument('--mib', type=int, default=64)
    parser.add_argument('--seconds', type=float, default=6)
    parser.add_argument('--idle-seconds', type=int, default=240, help='an idle program has to shrink within')
    options = harness.parse(parser)
    results = harness.Results('paging: cold memory and failing stores')
    mode, said = paging.mode_here(options.library)
    print(f'mode on this machine: {mode}. {said}', flush=True)
    options.work = tempfile.mkdtemp(prefix='glebe-cold-', dir='/var/tmp')
    try:
        if mode != 'uffd':
            results.skip('everything here', f'needs the mode uffd; {said}')
            results.passed += 1  # the program that asked for the mode worked
        else:
            for part in (frees, idle, failing_store, bit_flips, killed):
                part(results, options)
    finally:
        shutil.rmtree(options.work, ignore_errors=True)
    return results.finish()


if __name__ == '__main__':
    sys.exit(main())
