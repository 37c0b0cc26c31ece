"""The code that makes a dataset, as a checksum, so that records which other code has made are not taken for its own."""

import ast
import hashlib
import inspect
import pathlib


def checksum(builder: type) -> str:
    """Returns the sha256 of the code of a TFDS builder: its class, and the parts of its own file that the class uses.

    Formatting, comments, the text of docstrings and the rest of the file do not count.

    Args:
        builder: the class.

    Returns:
        64 hexadecimal digits; "" where there is no source to read, or the class does not stand at the top of its file.
    """
    try:
        tree = ast.parse(pathlib.Path(inspect.getsourcefile(builder) or "").read_text(encoding="utf-8"))
    except (TypeError, OSError, SyntaxError, UnicodeDecodeError):
        return ""
    defined: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in _bound(statement):
            defined.setdefault(name, []).append(statement)
    used: dict[str, list[str]] = {}
    waiting = [builder.__name__]
    while waiting:
        name = waiting.pop()
        if name in used or name not in defined:
            continue
        used[name] = [ast.unparse(_without_docstrings(statement)) for statement in defined[name]]
        nodes = (node for statement in defined[name] for node in ast.walk(statement))
        waiting += [node.id for node in nodes if isinstance(node, ast.Name)]
    return hashlib.sha256(repr(sorted(used.items())).encode()).hexdigest() if builder.__name__ in used else ""


def _bound(statement: ast.stmt) -> list[str]:
    """The names that a statement defines."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).partition(".")[0] for alias in statement.names]
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _without_docstrings(statement: ast.stmt) -> ast.stmt:
    """The statement with `pass` in place of each docstring, changed in place."""
    for node in ast.walk(statement):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.Pass()
    return statement
