"""Installs a build into a scratch folder and uses it as a stranger would: by pkg-config, by CMake, with the
archive on the command line and, with --subproject, from a Meson project. Each way builds a program that must
keep libc's malloc, or programs that must run on glebe's, and runs them.
Usage: check_packages.py --build FOLDER [--subproject]"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROBE = HERE.parent / 'override_probe_static.cpp'
failed = 0
passed = 0


def report(name, error):
    global failed, passed
    failed, passed = failed + bool(error), passed + (not error)
    print(f'{"FAILED" if error else "ok":8} {name}  {error}', flush=True)


def run(*command, env=None):
    """'' when the command succeeded, otherwise the end of what it said."""
    done = subprocess.run([str(word) for word in command], text=True, stdin=subprocess.DEVNULL,
                          capture_output=True, env=env, timeout=900)
    if done.returncode == 0:
        return ''
    return f'{command[0]} exits {done.returncode}: {(done.stdout + done.stderr)[-600:]}'


def compile_and_run(name, source, flags, out):
    compiler = ['gcc'] if source.suffix == '.c' else ['g++', '-std=c++20', '-fno-builtin']
    report(name, run(*compiler, '-O1', source, '-o', out, *flags) or run(out))


def by_pkg_config(prefix, pc_folder, out):
    env = {**os.environ, 'PKG_CONFIG_PATH': str(pc_folder)}

    def flags(package):
        words = ['pkg-config', f'--define-variable=prefix={prefix}', '--cflags', '--libs', package]
        return subprocess.run(words, env=env, text=True, capture_output=True, check=True).stdout.split()
    compile_and_run('pkg-config glebe', HERE / 'interface_only.c', flags('glebe'), out)
    compile_and_run('pkg-config glebe-gpu', HERE.parent / 'device_example.cpp', flags('glebe-gpu'), out)
    compile_and_run('pkg-config glebe-gpu, C', HERE.parent / 'device_c.c', flags('glebe-gpu'), out)
    compile_and_run('pkg-config glebe-override', PROBE, flags('glebe-override'), out)
    compile_and_run('pkg-config glebe-override, quiet', HERE / 'quiet.c', flags('glebe-override'), out)


def by_archive(archive, out):
    compile_and_run('libglebe.a', PROBE, [archive], out)
    compile_and_run('libglebe.a -static', PROBE, [archive, '-static'], out)
    whole = [f'-Wl,--whole-archive,{archive},--no-whole-archive']
    compile_and_run('libglebe.a whole, quiet', HERE / 'quiet.c', whole, out)


def run_built(name, folder):
    for program in ('interface_only', 'quiet', 'override_probe'):
        report(f'{name}: {program}', run(folder / program))


def by_cmake(prefix, work):
    if not shutil.which('cmake'):
        print('skipped  CMake: cmake is not installed')
        return
    error = run('cmake', '-S', HERE, '-B', work, f'-DCMAKE_PREFIX_PATH={prefix}')
    error = error or run('cmake', '--build', work)
    report('CMake: find_package and build', error)
    if not error:
        run_built('CMake', work)


def by_subproject(work):
    (work / 'subprojects').mkdir(parents=True)
    (work / 'subprojects' / 'glebe').symlink_to(ROOT)
    shutil.copy(HERE / 'subproject.build', work / 'meson.build')
    for source in (HERE / 'interface_only.c', HERE / 'quiet.c', PROBE):
        shutil.copy(source, work)
    error = run('meson', 'setup', work / 'build', work) or run('ninja', '-C', work / 'build')
    report('Meson subproject: build', error)
    if not error:
        run_built('Meson subproject', work / 'build')


def use_installed(folder):
    prefix = next((folder / 'root').rglob('include/glebe/glebe.h')).parents[2]
    archive = next(prefix.rglob('libglebe.a'))
    by_pkg_config(prefix, archive.parent / 'pkgconfig', folder / 'program')
    by_archive(archive, folder / 'program')
    by_cmake(prefix, folder / 'cmake')


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', required=True)
    parser.add_argument('--subproject', action='store_true')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='glebe-package-') as name:
        folder = pathlib.Path(name)
        env = {**os.environ, 'DESTDIR': str(folder / 'root')}
        error = run('meson', 'install', '-C', options.build, '--no-rebuild', env=env)
        report('install', error)
        if not error:
            use_installed(folder)
        if options.subproject:
            by_subproject(folder / 'consumer')
    print(f'{passed} passed, {failed} failed')
    return 1 if failed or not passed else 0


if __name__ == '__main__':
    sys.exit(main())
