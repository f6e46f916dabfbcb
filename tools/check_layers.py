"""Fails when an include points upward in the tree, or sideways between two layers that must not know each
other, when a file of the library lies in no layer, and when an #if outside platform/ asks for the operating
system.
Usage: check_layers.py [ROOT]"""
import pathlib
import re
import sys

LAYERS = ['src/base', 'src/placement', 'platform', 'src/vm', 'src/heap', 'src/paging', 'src/device',
          'src/observe', 'src/api']
LEVEL = {name: level for level, name in enumerate(LAYERS)}
# Downward, but both stand on placement and neither may know the other.
FORBIDDEN = {('src/device', 'src/heap')}
INCLUDE = re.compile(r'\s*#\s*include\s+(?:"([^"]+)"|<(glebe/[^>]+)>)')
PUBLIC = {'src/api', 'src/observe'}  # the only layers that know the C interface
CONDITION = re.compile(r'\s*#\s*(?:if|ifdef|ifndef|elif)\b(.*)')
SYSTEM_MACRO = re.compile(r'\b(_WIN32|_WIN64|__linux__|__MINGW\w+|__APPLE__|__unix__|__GLIBC__)\b')
# The public header has to ask: it is compiled by programs that meson.build did not configure.
MAY_ASK = ('platform/', 'include/glebe/glebe.h', 'src/base/check.h')


def layer(path):
    return next((name for name in LAYERS if path.startswith(name + '/')), None)


def include_error(here, found):
    quoted, public = found.groups()
    if public:
        return None if here in PUBLIC else f'{here} must not include <{public}>'
    if quoted.endswith('.cpp'):
        return f'includes the source file {quoted}'
    there = layer(quoted)
    if there is None:
        return f'"{quoted}" is not a path of a layer from the root of the tree'
    if LEVEL[there] > LEVEL[here] or (here, there) in FORBIDDEN:
        return f'{here} must not include {quoted}'
    return None


def check_file(root, file):
    path = file.relative_to(root).as_posix()
    here = layer(path)
    if here is None and not path.startswith('include/'):
        yield f'{path}: is in no layer'
        return
    for number, line in enumerate(file.read_text(encoding='utf-8').splitlines(), 1):
        found = INCLUDE.match(line)
        error = include_error(here, found) if found and here else None
        if error:
            yield f'{path}:{number}: {error}'
        asked = CONDITION.match(line)
        if asked and SYSTEM_MACRO.search(asked[1]) and not path.startswith(MAY_ASK):
            yield f'{path}:{number}: asks for the operating system outside platform/'


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent).resolve()
    every = [file for folder in ('platform', 'src', 'include') for file in sorted((root / folder).rglob('*'))]
    files = [file for file in every if file.suffix in ('.h', '.hpp', '.cpp', '.c', '.def')]
    errors = [error for file in files for error in check_file(root, file)]
    print('\n'.join(errors) or f'layers: {len(files)} files ok')
    return 1 if errors or not files else 0


if __name__ == '__main__':
    sys.exit(main())
