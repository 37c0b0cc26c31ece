"""Makes the mutants of a source file: each changes the meaning of one expression, and is spliced into the text.

The changes are signs, factors, off-by-one constants, comparisons, `min` for `max`, `sin` for `cos`, a dropped
`stop_gradient`, swapped arguments, dropped keywords (`axis=`, `keepdims=`) and swapped branches. Code that computes
nothing is not changed: docstrings, annotations, imports, decorators, assertions, texts, `raise` statements, and the
widths and sizes of lines and letters in a chart. Neither is the 1 of -1 in the arguments of `reshape`.
"""

import ast
import difflib
import hashlib
import io
import itertools
import tokenize
from collections.abc import Iterator
from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of one file.

    Attributes:
        path: the file's path from the repository's root.
        kind: the kind of the change, e.g. "sign".
        line: the line of the change, from 1.
        lines: (first, last) line of the statement around the change, without the body of a compound statement; a test
            that runs them runs the change.
        body: (first, last) line of the body of a function if the change is in a default of an argument; else `lines`.
        was: the changed lines before the change, without indentation and comments.
        now: the changed lines after the change, likewise.
        start: the first byte of the source that is replaced.
        end: the first byte after the replaced ones.
        text: the replacement.
        constant: whether the change is outside of functions, e.g. in a table, so that the module's import runs it.
    """

    path: str
    kind: str
    line: int
    lines: tuple[int, int]
    body: tuple[int, int]
    was: str
    now: str
    start: int
    end: int
    text: str
    constant: bool

    @property
    def name(self) -> str:
        """Eight hexadecimal digits, which do not depend on where in the file the line is."""
        return digest(self.path, self.was, self.now)[:8]

    def applied(self, source: bytes) -> bytes:
        """The mutated source."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def diff(self, source: bytes) -> str:
        """The change as a unified diff with one line of context."""
        before, after = (text.decode().splitlines() for text in (source, self.applied(source)))
        return "\n".join(difflib.unified_diff(before, after, self.path, self.path, n=1, lineterm=""))


def digest(*parts: object) -> str:
    """The SHA-256 of texts and numbers, as hexadecimal digits."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


OPERATORS = {
    ast.Add: [("sign", "+", "-")],
    ast.Sub: [("sign", "-", "+")],
    ast.Mult: [("factor", "*", "/")],
    ast.Div: [("factor", "/", "*")],
    ast.Pow: [("factor", "**", "*")],
    ast.Mod: [("factor", "%", "//")],
    ast.BitAnd: [("condition", "&", "|")],
    ast.BitOr: [("condition", "|", "&")],
    ast.Lt: [("bound", "<", "<="), ("condition", "<", ">")],
    ast.LtE: [("bound", "<=", "<"), ("condition", "<=", ">")],
    ast.Gt: [("bound", ">", ">="), ("condition", ">", "<")],
    ast.GtE: [("bound", ">=", ">"), ("condition", ">=", "<")],
    ast.Eq: [("condition", "==", "!=")],
    ast.NotEq: [("condition", "!=", "==")],
    ast.Is: [("condition", "is", "is not")],
    ast.IsNot: [("condition", "is not", "is")],
    ast.In: [("condition", "in", "not in")],
    ast.NotIn: [("condition", "not in", "in")],
    ast.And: [("condition", "and", "or")],
    ast.Or: [("condition", "or", "and")],
}
PAIRS = [("min", "max"), ("minimum", "maximum"), ("sin", "cos"), ("sinh", "cosh"), ("sum", "mean"), ("any", "all"),
         ("argmin", "argmax"), ("floor", "ceil"), ("std", "var"), ("zeros", "ones"), ("zeros_like", "ones_like"),
         ("logical_and", "logical_or"), ("alpha", "sigma"), ("x0", "eps"), ("t_min", "t_max"),
         ("log", "log1p"), ("exp", "expm1")]  # fmt: skip
OTHER = {**dict(PAIRS), **{b: a for a, b in PAIRS}}
DROPPED = {"stop_gradient", "frozen", "sqrt", "square", "abs", "round", "flip", "exp", "log", "cumsum", "clip"}
COMMUTE = {"maximum", "minimum", "max", "min", "hypot", "add", "multiply", "allclose", "logaddexp", "promote_types",
           "gcd", "union"}  # fmt: skip
LOOKS = {"linewidth", "linewidths", "markersize", "s", "fontsize", "labelsize", "pad", "alpha", "zorder"}
CHARTS = {"plot", "scatter", "bar", "barh", "hist", "stairs", "errorbar", "fill_between", "imshow", "axhline",
          "axvline", "annotate", "text", "suptitle", "set_title", "set_xlabel", "set_ylabel", "tick_params", "grid",
          "legend"}  # fmt: skip
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
SPEECH = {"warn", "print", "info", "warning", "isinstance", "issubclass", "getattr", "hasattr", "cast", "TypeVar"}


def mutants(path: str, source: bytes) -> list[Mutant]:
    """All mutants of a file, in the order of the file, each once.

    Args:
        path: the file's path, for reports.
        source: the file's content.
    """
    bare = _without_comments(source)
    text = _Text(bare)
    by_change = {}
    tree = ast.parse(source)
    functions = [text.span(node) for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    for place in _places(tree):
        for kind, start, end, new in _changes(place.node, text):
            mutated = bare[:start] + new.encode() + bare[end:]
            first = bare.count(b"\n", 0, start)
            last = bare.count(b"\n", 0, end)
            was = _squeezed(bare, first, last)
            now = _squeezed(mutated, first, last + mutated.count(b"\n") - bare.count(b"\n"))
            constant = not any(opened <= start < closed for opened, closed in functions)
            mutant = Mutant(path, kind, first + 1, place.lines, place.body, was, now, start, end, new, constant)
            by_change.setdefault((was, now, first), mutant)
    return sorted(by_change.values(), key=lambda mutant: (mutant.start, mutant.end, mutant.text))


def sample(candidates: list[Mutant], source: bytes, number: int, seed: int) -> list[Mutant]:
    """A random choice of `number` mutants of a file, on as many different lines as possible.

    Mutants whose syntax tree equals the source's are left out. The choice depends on the seed and on the changed lines
    alone, so that a line added elsewhere in the file does not change it.
    """
    # Swapped arguments come last: they mostly differ in type, and the error that follows says little about the tests.
    key = lambda mutant: (mutant.kind == "order", digest(seed, mutant.path, mutant.was, mutant.now))
    order = sorted(candidates, key=key)
    seen: dict[str, int] = {}
    ranks = []
    for mutant in order:
        ranks.append(seen.get(mutant.was, 0))
        seen[mutant.was] = ranks[-1] + 1
    by_line = (mutant for _, mutant in sorted(zip(ranks, order), key=lambda pair: (pair[0], key(pair[1])[1])))
    changed = (mutant for mutant in by_line if _differs(source, mutant.applied(source)))
    return sorted(itertools.islice(changed, number), key=lambda mutant: mutant.start)


def _differs(source: bytes, mutated: bytes) -> bool:
    try:
        return ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


class _Text:
    """A source with the byte offsets of its syntax tree's nodes."""

    def __init__(self, source: bytes):
        self.source = source
        self.begins = [0]
        for line in source.splitlines(keepends=True):
            self.begins.append(self.begins[-1] + len(line))

    def start(self, node) -> int:
        return self.begins[node.lineno - 1] + node.col_offset

    def end(self, node) -> int:
        return self.begins[node.end_lineno - 1] + node.end_col_offset

    def span(self, node) -> tuple[int, int]:
        return self.start(node), self.end(node)

    def code(self, node) -> str:
        return self.source[self.start(node) : self.end(node)].decode()


class _Place(NamedTuple):
    node: ast.AST
    lines: tuple[int, int]
    body: tuple[int, int]


def _without_comments(source: bytes) -> bytes:
    """The source with spaces in place of its comments: every offset stays, and a reworded comment changes no mutant."""
    lines = source.decode().split("\n")
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column] + " " * len(token.string.encode())
    return "\n".join(lines).encode()


def _squeezed(source: bytes, first: int, last: int) -> str:
    lines = source.decode().splitlines()[first : last + 1]
    return " ".join(" ".join(lines).split())


def _places(tree: ast.Module) -> Iterator[_Place]:
    """Every node that may change, with the lines that a test must run to run the node."""

    def statements(body: list[ast.stmt]) -> Iterator[_Place]:
        for statement in body:
            yield from within(statement)

    def header(node, last: int, parts: list[ast.AST | None], body: tuple[int, int] | None = None) -> Iterator[_Place]:
        lines = (node.lineno, max(last, node.lineno))
        for part in parts:
            if part is not None:
                for inner, of_lambda in _expressions(part):
                    yield _Place(inner, of_lambda or lines, of_lambda or body or lines)

    def within(node: ast.stmt) -> Iterator[_Place]:
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Raise, ast.Assert, ast.Global, ast.Nonlocal, ast.Pass)):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            defaults = [*node.args.defaults, *node.args.kw_defaults]
            yield from header(node, node.body[0].lineno - 1, defaults, _body(node))
            yield from statements(node.body)
        elif isinstance(node, ast.ClassDef):
            yield from statements(node.body)
        elif isinstance(node, (ast.If, ast.While)):
            if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                return
            yield _Place(node, (node.lineno, node.lineno), (node.lineno, node.lineno))
            yield from header(node, node.body[0].lineno - 1, [node.test])
            yield from statements(node.body + node.orelse)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            yield from header(node, node.body[0].lineno - 1, [node.iter])
            yield from statements(node.body + node.orelse)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            yield from header(node, node.body[0].lineno - 1, [item.context_expr for item in node.items])
            yield from statements(node.body)
        elif isinstance(node, ast.Try):
            yield from statements(node.body + node.orelse + node.finalbody)
            for handler in node.handlers:
                yield from statements(handler.body)
        elif isinstance(node, ast.AnnAssign):
            yield from header(node, node.end_lineno, [node.value])
        elif isinstance(node, ast.AugAssign):
            yield _Place(node, (node.lineno, node.end_lineno), (node.lineno, node.end_lineno))
            yield from header(node, node.end_lineno, [node.target, node.value])
        else:
            yield from header(node, node.end_lineno, list(ast.iter_child_nodes(node)))

    yield from statements(tree.body)


def _body(node) -> tuple[int, int]:
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(node.body) > 1:
        first = node.body[1]
    return first.lineno, node.end_lineno


def _expressions(
    node: ast.AST, of_lambda: tuple[int, int] | None = None, sizes: bool = False
) -> Iterator[tuple[ast.AST, tuple[int, int] | None]]:
    """A node and the nodes within it, each with the (first, last) line of the innermost lambda around it.

    Texts, calls of `SPEECH` and arguments of `LOOKS` are left out.

    Args:
        node: the expression.
        of_lambda: the (first, last) line of the lambda around the expression; None outside of lambdas.
        sizes: whether the expression is an argument of `reshape`; there -1 is the remaining size, for which numpy also
            takes -2.
    """
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Call) and _called(node) in SPEECH):
        return
    if isinstance(node, ast.Lambda):
        of_lambda = (node.lineno, node.end_lineno or node.lineno)
    yield node, of_lambda
    if sizes and isinstance(node, ast.UnaryOp):
        return
    reshapes = isinstance(node, ast.Call) and _called(node) == "reshape"
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.keyword) and _is_look(node, child)):
            in_reshape = child is not node.func if reshapes else sizes and isinstance(node, (ast.Tuple, ast.Starred))
            yield from _expressions(child, of_lambda, in_reshape)


def _is_look(call: ast.AST, keyword: ast.keyword) -> bool:
    """Whether an argument says how a chart looks, and not what it shows."""
    return isinstance(call, ast.Call) and _called(call) in CHARTS and keyword.arg in LOOKS


def _is_type(node: ast.AST) -> bool:
    """Whether a node is a union of types, such as `Array | None`: one part is None, a type or a subscript of a type."""
    parts = (node.left, node.right) if isinstance(node, ast.BinOp) else ()
    name = lambda part: getattr(part, "id", "")[:1].isupper() and not getattr(part, "id", "").isupper()
    return any(
        _is_type(part)
        or (isinstance(part, ast.Constant) and part.value is None)
        or name(part)
        or (isinstance(part, ast.Subscript) and name(part.value))
        for part in parts
    )


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _changes(node: ast.AST, text: _Text) -> Iterator[tuple[str, int, int, str]]:
    """The ways to change one node, each as (kind, start, end, new text)."""
    instead = lambda kind, new: (kind, text.start(node), text.end(node), new)

    def between(left, right, operator):
        for kind, old, new in OPERATORS.get(type(operator), []):
            start = text.end(left)
            end = text.start(right)
            gap = text.source[start:end].decode()
            yield kind, start, end, gap.replace(old, new, 1)

    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.BitOr) and _is_type(node):
            return
        if any(
            isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", 0), str)
            for side in (node.left, node.right)
        ):
            return
        yield from between(node.left, node.right, node.op)
        swapped = f"({ast.unparse(ast.BinOp(node.right, node.op, node.left))})"
        if isinstance(node.op, (ast.Sub, ast.Div, ast.MatMult)):
            yield instead("swap", swapped)
        if isinstance(node.op, (ast.Mult, ast.Div)):
            yield instead("factor", f"({ast.unparse(node.left)})")
        if isinstance(node.op, ast.Mult):
            yield instead("factor", f"({ast.unparse(node.right)})")
        if isinstance(node.op, ast.FloorDiv):
            yield instead("off by one", f"({ast.unparse(node)} + 1)")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield instead("sign" if isinstance(node.op, ast.USub) else "condition", f"({ast.unparse(node.operand)})")
    elif isinstance(node, ast.Compare):
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators):
            yield from between(left, right, operator)
    elif isinstance(node, ast.BoolOp):
        for left, right in zip(node.values, node.values[1:]):
            yield from between(left, right, node.op)
    elif isinstance(node, ast.Constant):
        yield from (instead(kind, new) for kind, new in _constants(node.value))
    elif isinstance(node, ast.IfExp):
        yield instead("condition", f"({ast.unparse(ast.IfExp(node.test, node.orelse, node.body))})")
    elif isinstance(node, ast.If):
        if isinstance(node.test, ast.UnaryOp) or len(getattr(node.test, "ops", ())) == 1:
            return  # the mutants of the expression "not a" or "a == b" include its negation
        yield "condition", text.start(node.test), text.end(node.test), f"not ({text.code(node.test)})"
    elif isinstance(node, ast.AugAssign):
        yield from between(node.target, node.value, node.op)
    elif isinstance(node, (ast.Attribute, ast.Name)) and not isinstance(node.ctx, ast.Store):
        name = getattr(node, "attr", getattr(node, "id", ""))
        if name in OTHER and isinstance(node, ast.Attribute):
            yield "name", text.end(node) - len(name.encode()), text.end(node), OTHER[name]
    elif isinstance(node, ast.Call):
        yield from _calls(node, instead)


def _calls(node: ast.Call, instead) -> Iterator[tuple[str, int, int, str]]:
    name = _called(node)
    arguments = node.args
    if isinstance(node.func, ast.Name) and name in OTHER:
        yield instead("name", ast.unparse(ast.Call(ast.Name(OTHER[name]), arguments, node.keywords)))
    if name in DROPPED and arguments:
        yield instead("dropped", f"({ast.unparse(arguments[0])})")
    if not any(isinstance(argument, ast.Starred) for argument in arguments) and name not in COMMUTE:
        for i in range(min(len(arguments), 3) - 1):
            if type(arguments[i]) is not type(arguments[i + 1]) and not (name == "where" and i == 1):
                continue
            swapped = [*arguments[:i], arguments[i + 1], arguments[i], *arguments[i + 2 :]]
            kind = "swap" if name == "where" else "order"
            yield instead(kind, ast.unparse(ast.Call(node.func, swapped, node.keywords)))
    for i, keyword in enumerate(node.keywords):
        if keyword.arg is not None and not _is_look(node, keyword):
            rest = [*node.keywords[:i], *node.keywords[i + 1 :]]
            yield instead("dropped", ast.unparse(ast.Call(node.func, arguments, rest)))


def _constants(value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, bool):
        yield "condition", repr(not value)
    elif isinstance(value, int):
        yield "off by one", repr(value + 1)
        if value > 0:
            yield "off by one", repr(value - 1)
    elif isinstance(value, float) and abs(value) != float("inf"):
        yield "factor", repr(1.0 if value == 0 else value / 2 if abs(value) < 1 else 2 * value)
