"""Fails on files above 600 lines, lines above 110 columns and functions above 60 lines anywhere in the tree,
and on more than 12 preprocessor conditionals per 1000 non-blank lines of the library. Parameters and nesting
are for clang-tidy, which parses C++; a function is found here by its braces, which is enough to count lines.
Usage: check_style.py [ROOT]"""
import ast
import pathlib
import re
import sys

FILE_LINES_MAX = 600
LINE_COLUMNS_MAX = 110
FUNCTION_LINES_MAX = 60
CONDITIONALS_PER_1000_MAX = 12
LIBRARY = ('src', 'platform', 'include')
FOLDERS = LIBRARY + ('tests', 'bench', 'tools')
CPP = ('.h', '.hpp', '.cpp', '.c', '.def')
CONDITIONAL = re.compile(r'\s*#\s*(?:if|ifdef|ifndef|elif|elifdef|elifndef)\b')
# In this order: raw strings, comments, strings, characters that are not digit separators.
NOT_CODE = re.compile(r'R"(?P<mark>[^\s()\\]{0,16})\(.*?\)(?P=mark)"|//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"'
                      r"|(?<![0-9a-fA-F])'(?:[^'\\\n]|\\.)+'", re.S)
# What stands before a brace that opens a scope of declarations and not a body.
SCOPE = re.compile(r'^\s*(?:inline\s+)?(?:namespace\b|extern\b(?!.*\()|(?:template\s*<.*>\s*)?'
                   r'(?:typedef\s+)?(?:class|struct|union|enum|concept)\b'
                   r'(?!.*\)\s*(?:const|noexcept|override|->|\s)*$))', re.S)


def blank(match):
    return re.sub(r'[^\n]', ' ', match[0])


def code_of(text):
    """The text without comments, literals and preprocessor lines, every line still in its place."""
    text = NOT_CODE.sub(blank, text)
    return re.sub(r'^[ \t]*#(?:[^\n]*\\\n)*[^\n]*', blank, text, flags=re.M)


def functions(text):
    """Yields (first line, lines) of every outermost brace pair that is not a scope of declarations."""
    code = code_of(text)
    stack, start = [], 0
    for position, char in enumerate(code):
        if char == '{':
            inside = any(kind == 'body' for kind, _ in stack)
            kind = 'scope' if not inside and SCOPE.match(code[start:position]) else 'body'
            stack.append((kind, first_line(code, start, position)))
        elif char == '}' and stack:
            kind, first = stack.pop()
            if kind == 'body' and not any(outer == 'body' for outer, _ in stack):
                yield first, code.count('\n', 0, position) + 1 - first + 1
        if char in '{};':
            start = position + 1


def first_line(code, start, position):
    """The line on which the signature before the brace at `position` begins."""
    skipped = len(code[start:position]) - len(code[start:position].lstrip())
    return code.count('\n', 0, start + skipped) + 1


def python_functions(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.lineno, node.end_lineno - node.lineno + 1


def check_file(root, file):
    path = file.relative_to(root).as_posix()
    text = file.read_text(encoding='utf-8')
    lines = text.splitlines()
    if len(lines) > FILE_LINES_MAX:
        yield f'{path}: {len(lines)} lines, at most {FILE_LINES_MAX}'
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_COLUMNS_MAX:
            yield f'{path}:{number}: {len(line)} columns, at most {LINE_COLUMNS_MAX}'
    for first, count in functions(text) if file.suffix in CPP else python_functions(text):
        if count > FUNCTION_LINES_MAX:
            yield f'{path}:{first}: function of {count} lines, at most {FUNCTION_LINES_MAX}'


def conditional_error(files):
    texts = [file.read_text(encoding='utf-8') for file in files]
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    count = sum(bool(CONDITIONAL.match(line)) for line in lines)
    if count * 1000 > CONDITIONALS_PER_1000_MAX * len(lines):
        return (f'{count} preprocessor conditionals in {len(lines)} non-blank lines of {", ".join(LIBRARY)}, '
                f'at most {CONDITIONALS_PER_1000_MAX} per 1000')
    return None


def is_python(file):
    if file.suffix:
        return file.suffix == '.py'
    return file.read_bytes().startswith(b'#!/usr/bin/env python3')


def tree(root, folders):
    files = [file for folder in folders for file in sorted((root / folder).rglob('*')) if file.is_file()]
    return [file for file in files if file.suffix in CPP or is_python(file)]


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent).resolve()
    files = tree(root, FOLDERS)
    errors = [error for file in files for error in check_file(root, file)]
    errors += filter(None, [conditional_error(tree(root, LIBRARY))])
    print('\n'.join(errors) or f'sizes: {len(files)} files ok')
    return 1 if errors or not files else 0


if __name__ == '__main__':
    sys.exit(main())
