"""Compares the dynamic symbol table of the preload with the one list of names that it may and must export,
and its NEEDED entries with libc alone. A name missing is as wrong as a name more: the missing one would be
taken from libc and cross allocators (glibc's pvalloc with our free), the extra one would collide with the
program's own.
Usage: check_exports.py LIBRARY [HEADER...]. With the public headers the glebe_ names are compared too. Of an
archive (.a) only these are: it exports nothing, and the program that links it takes what it uses."""
import re
import subprocess
import sys

C_CORE = '''malloc free calloc realloc reallocarray memalign aligned_alloc posix_memalign valloc pvalloc
malloc_usable_size cfree'''
GLIBC_CONTROL = '''mallopt mallinfo mallinfo2 malloc_info malloc_stats malloc_trim malloc_get_state
malloc_set_state'''
GLIBC_ALIASES = '''__libc_malloc __libc_free __libc_calloc __libc_realloc __libc_memalign __libc_valloc
__libc_pvalloc __libc_reallocarray __libc_mallopt __libc_mallinfo __libc_cfree __posix_memalign'''
C23 = 'free_sized free_aligned_sized'
OTHER = 'dlopen mlockall mmap mmap64 munmap mremap mprotect madvise'
NEW_FORMS = ['m', 'mRKSt9nothrow_t', 'mSt11align_val_t', 'mSt11align_val_tRKSt9nothrow_t']
DELETE_FORMS = ['Pv', 'Pvm', 'PvRKSt9nothrow_t', 'PvSt11align_val_t', 'PvmSt11align_val_t',
                'PvSt11align_val_tRKSt9nothrow_t']
NEEDED = re.compile(r'libc\.so\.6|ld-linux[-\w.]*\.so\.\d+')


def required_names():
    names = set(' '.join([C_CORE, GLIBC_CONTROL, GLIBC_ALIASES, C23, OTHER]).split())
    names |= {f'_Zn{kind}{form}' for kind in 'wa' for form in NEW_FORMS}
    names |= {f'_Zd{kind}{form}' for kind in 'la' for form in DELETE_FORMS}
    return names


def header_names(path):
    with open(path, encoding='utf-8') as header:
        text = re.sub(r'//[^\n]*|/\*.*?\*/', '', header.read(), flags=re.S)
    return set(re.findall(r'\b(glebe_\w+)\s*\(', text))


def output(*command):
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout


def check(library, headers):
    problems = []
    needed = re.findall(r'NEEDED\s+(\S+)', output('objdump', '-p', library))
    problems += [f'needs {name}' for name in needed if not NEEDED.fullmatch(name)]
    symbols = [line.split()[-1] for line in output('nm', '-D', '--defined-only', library).splitlines()]
    problems += [f'versioned name {name}' for name in symbols if '@' in name]
    plain = {name.split('@')[0] for name in symbols}
    ours = {name for name in plain if name.startswith('glebe_')}
    required = required_names()
    problems += [f'missing {name}' for name in sorted(required - plain)]
    problems += [f'must not export {name}' for name in sorted(plain - required - ours)]
    problems += [f'missing {name}' for name in sorted({'glebe_malloc', 'glebe_version', 'glebe_owns'} - ours)]
    if headers:
        problems += compare_declared(ours, headers)
    return problems, len(required) + len(ours)


def compare_declared(ours, headers):
    declared = set().union(*map(header_names, headers))
    return ([f'declared but not exported: {name}' for name in sorted(declared - ours)] +
            [f'exported but not declared: {name}' for name in sorted(ours - declared)])


def check_archive(library, headers):
    lines = output('nm', '-g', '--defined-only', library).splitlines()
    symbols = [line.split()[-1] for line in lines if line]
    ours = {name for name in symbols if name.startswith('glebe_')}
    return compare_declared(ours, headers), len(ours)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    find = check_archive if sys.argv[1].endswith('.a') else check
    problems, count = find(sys.argv[1], sys.argv[2:])
    for problem in problems:
        print(f'FAILED   {problem}')
    print(f'{0 if problems else 1} passed, {1 if problems else 0} failed ({count} names compared)')
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
