"""The source code that a compiled program comes from, and a digest of this code."""

import ast
import hashlib
import io
import itertools
import pathlib
import tokenize
from collections.abc import Mapping, Sequence

from diffusion.experiments.planning.compiled import findings, hlo

TRACED_BY = "benchmarks/programs/cases.py:"


def definitions(text: str, root: pathlib.Path) -> dict[str, list[str]]:
    """The functions and classes whose lines a program names, without the callers that trace it.

    Args:
        text: the text of the compiled program.
        root: the folder of the repository; files outside are left out.

    Returns:
        {file relative to root: names of functions and classes at its top level}, both sorted.
    """
    module = hlo.parse(text)
    lines = {
        line
        for computation in module.computations.values()
        for instruction in computation.instructions.values()
        for line in itertools.takewhile(_is_traced, findings.lines_inside(module, instruction, root))
    }
    names: dict[str, set[str]] = {}
    for line in lines:
        file, _, number = line.rpartition(":")
        for name, node in _top_level(root / file).items():
            if node.lineno <= int(number) <= (node.end_lineno or node.lineno):
                names.setdefault(file, set()).add(name)
    return {file: sorted(inside) for file, inside in sorted(names.items())}


def _is_traced(line: str) -> bool:
    """Whether a line lies within the program; the lines of its callers begin with the file that traces it."""
    return not line.startswith(TRACED_BY)


def digest(definitions: Mapping[str, Sequence[str]], root: pathlib.Path) -> str:
    """16 hexadecimal digits that depend on the code of functions and classes, but not on comments or docstrings.

    A function that no longer exists counts as one without code.
    """
    code = hashlib.sha256()
    for file, names in sorted(definitions.items()):
        path = root / file
        nodes = _top_level(path) if path.exists() else {}
        for name in sorted(names):
            body = _code(path.read_text(), nodes[name]) if name in nodes else ""
            code.update(f"{file}\n{name}\n{body}\n".encode())
    return code.hexdigest()[:16]


def _top_level(path: pathlib.Path) -> dict[str, ast.FunctionDef | ast.ClassDef]:
    tree = ast.parse(path.read_text(), str(path))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def _code(source: str, definition: ast.FunctionDef | ast.ClassDef) -> str:
    """The lines of a definition with its decorators, without comments, docstrings and empty lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = token.line[: token.start[1]]
    for node in ast.walk(definition):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            lines[text.lineno - 1 : text.end_lineno] = [""] * ((text.end_lineno or text.lineno) - text.lineno + 1)
    first = min([definition.lineno, *(decorator.lineno for decorator in definition.decorator_list)])
    return "\n".join(line.rstrip() for line in lines[first - 1 : definition.end_lineno] if line.strip())
