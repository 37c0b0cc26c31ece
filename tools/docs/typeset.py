"""Converts formulas in docstrings to TeX: `alpha / norm(alpha, f sigma)` becomes a formula, and words stay words."""

import re

GREEK = ("alpha", "beta", "gamma", "sigma", "eta", "theta", "lambda", "mu", "pi", "rho", "phi", "kappa")
OPERATORS = ("cos", "sin", "exp", "log", "ln", "max", "min")  # operators with a command in TeX
FUNCTIONS = ("sigmoid", "norm", "mean", "stop", "solver", "heun", "project", "softplus")
WORDS = tuple(
    "SNR factor first last start end target output weight scale loss concept temperature structure adversarial".split()
)
BETWEEN = ("and", "or", "in", "uniform", "another")  # words of a sentence that may stand inside a formula
TOKEN = re.compile(
    r"log-SNR|[A-Za-z]+\d?(?:_(?:\{[^}]*\}|[A-Za-z0-9]+))*'*|\d+(?:\.\d+)?|<=|>=|\.\.|\s+|[-+*/^(),=|\[\]<>~]"
)
NAME = re.compile(r"([A-Za-z]+?)(\d?)((?:_(?:\{[^}]*\}|[A-Za-z0-9]+))*)('*)")
ARGUMENT = re.compile(rf"(?!(?:{'|'.join(GREEK)}|prod)_)[a-z]{{2,}}(?:_[a-z]{{3,}})+")  # a name such as noise_scale
SYMBOLS = {"<=": r"\le ", ">=": r"\ge ", "..": r"\cdot ", "*": r"\,", "~": r"\sim "}


def typeset(text: str) -> str:
    """A line of a docstring with its formulas between dollars.

    The line is divided at the commas and semicolons outside of brackets. A part of the line, or the beginning of a
    part, becomes a formula if it consists of letters, Greek letters, the names above, numbers and signs.

    Args:
        text: a line such as "sqrt(1 - alpha^2), as in the paper".
    """
    return "".join(part if mark else _part(part) for part, mark in _parts(text))


def _parts(text: str) -> list[tuple[str, bool]]:
    """The parts of a line and the commas and semicolons between them, each as (text, whether it is such a mark)."""
    parts, depth, start = [], 0, 0
    for mark in re.finditer(r"[(\[]|[)\]]|[,;] ", text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(mark[0], 0)
        if depth == 0 and mark[0] in (", ", "; "):
            parts += [(text[start : mark.start()], False), (mark[0], True)]
            start = mark.end()
    return [*parts, (text[start:], False)]


def _part(text: str) -> str:
    tokens = TOKEN.findall(text)
    if "".join(tokens) != text[: len("".join(tokens))]:
        return text
    known = 0
    while known < len(tokens) and _known(tokens[known]):
        known += 1
    if "".join(tokens[:known]) != text:  # the formula ends at the last space before the first unknown word
        known = max((i for i in range(known) if tokens[i].isspace()), default=0)
        while known and (tokens[known - 1].isspace() or tokens[known - 1] in BETWEEN):
            known -= 1
    formula = "".join(tokens[:known])
    balanced = formula.count("(") == formula.count(")") and formula.count("[") == formula.count("]")
    if (
        not balanced
        or not re.search(rf"[=^/|(_\d]|{'|'.join(GREEK)}", formula)
        or re.search(r"[a-z][+-][ )]|[-+=/]$", formula)
    ):
        return text
    return f"${_tidy(_row(tokens[:known]))}$" + text[len(formula) :]


def _tidy(tex: str) -> str:
    """TeX without the spaces after a command that no letter follows."""
    return re.sub(r"(\\[A-Za-z]+) (?=[(){}^_,'])", r"\1", re.sub(" +", " ", tex)).strip()


def _known(token: str) -> bool:
    name = NAME.fullmatch(token)
    if not name:
        return True  # a sign, a number, a space, or log-SNR
    known = (*GREEK, *OPERATORS, *FUNCTIONS, *WORDS, *BETWEEN, "eps", "sqrt", "prod", "grad")
    return len(name[1]) == 1 or name[1] in known or bool(ARGUMENT.fullmatch(token) or re.fullmatch("d[tuIx]", name[1]))


def _row(tokens: list[str]) -> str:
    """Tokens as TeX, with a thin space between factors."""
    parts: list[str] = []
    i = 0
    while i < len(tokens):
        token = tokens[i]
        if token in ("sqrt", "^") and tokens[i + 1 : i + 2] == ["("]:
            end = _closing(tokens, i + 1)
            parts.append(("\\sqrt" if token == "sqrt" else "^") + "{" + _row(tokens[i + 2 : end]) + "}")
            i = end
        elif token == "^":
            parts.append(f"^{_braced(_name(tokens[i + 1]))}")
            i += 1
        elif token == "|":
            opens = not parts or tokens[i - 1].isspace() or tokens[i - 1] in ("(", "-", "/")
            parts.append(r"\lvert " if opens else r"\rvert ")
        elif token.isspace():
            before, after = tokens[i - 1 : i], tokens[i + 1 : i + 2]
            factors = before and after and re.match(r"[\w)\]|']", before[0][-1]) and re.match(r"[\w(]|\|", after[0])
            parts.append(r"\," if factors and not {*before, *after} & {*BETWEEN} else " ")
        else:
            parts.append(_name(token))
        i += 1
    return "".join(parts)


def _closing(tokens: list[str], start: int) -> int:
    depth = 0
    for i in range(start, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[i], 0)
        if depth == 0:
            return i
    raise ValueError(f"a bracket is not closed in {''.join(tokens)!r}")


def _name(token: str) -> str:
    """A name, a number or a sign as TeX."""
    if token == "log-SNR":
        return r"\log \mathrm{SNR}"
    name = NAME.fullmatch(token)
    if not name:
        return SYMBOLS.get(token, token)
    if ARGUMENT.fullmatch(token):
        return rf"\mathtt{{{token}}}".replace("_", r"\_")
    letters, digit, below, primes = name.groups()
    indices = [part for part in re.findall(r"_(\{[^}]*\}|[A-Za-z0-9]+)", below)]
    hat = "hat" in indices
    indices = [index for index in indices if index != "hat"]
    if letters in BETWEEN:
        return rf"\;\text{{{letters}}}\;"
    if letters in (*GREEK, "prod", *OPERATORS):
        base = f"\\{letters} " if not (digit or indices) else f"\\{letters}"
    elif letters in ("eps", "grad"):
        base = {"eps": r"\varepsilon ", "grad": r"\nabla "}[letters]
    elif letters in FUNCTIONS:
        base = rf"\operatorname{{{letters}}}"
    else:
        base = letters if len(letters) == 1 or (letters[0] == "d" and len(letters) == 2) else rf"\mathrm{{{letters}}}"
    if hat:
        base = rf"\hat{{{base}}}"
    under = ", ".join([*([digit] if digit else []), *map(_index, indices)])
    return base + (f"_{_braced(under)}" if under else "") + primes


def _braced(tex: str) -> str:
    return tex if len(tex) == 1 else f"{{{tex}}}"


def _index(index: str) -> str:
    if index.startswith("{"):
        return _row(TOKEN.findall(index[1:-1]))
    if index in ("max", "min"):
        return f"\\{index}"
    return index if len(index) == 1 or index.isdecimal() else rf"\text{{{index}}}"
