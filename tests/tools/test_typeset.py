"""Formulas of docstrings as TeX."""

import pytest

from tools.docs.typeset import typeset

CASES = {
    "sqrt(1 - alpha^2)": r"$\sqrt{1 - \alpha^2}$",
    "exp(-B(t) / 2), B(t) = beta_min t + t^2 / 2": r"$\exp(-B(t) / 2)$, $B(t) = \beta_{\min}\,t + t^2 / 2$",
    "f = first^(1 - t) last^t": r"$f = \mathrm{first}^{1 - t}\,\mathrm{last}^t$",
    "sqrt(prod_{j <= i} (1 - beta_j)) at t = 1": r"$\sqrt{\prod_{j \le i} (1 - \beta_j)}$ at t = 1",
    "|u - (alpha' x_0 + sigma' eps)|^2": r"$\lvert u - (\alpha'\,x_0 + \sigma'\,\varepsilon)\rvert^2$",
    "|F - stop(g / (|g| + c))|^2": r"$\lvert F - \operatorname{stop}(g / (\lvert g\rvert + c))\rvert^2$",
    "w(t) |x0 - x0_hat|^2, in any parameterization": r"$w(t)\,\lvert x_0 - \hat{x}_0\rvert^2$, in any parameterization",
    "alpha = 0, sigma = 0.998 with the paper's betas": r"$\alpha = 0$, $\sigma = 0.998$ with the paper's betas",
    "noise_scale t": r"$\mathtt{noise\_scale}\,t$",
    "alpha of each leaf's schedule": r"$\alpha$ of each leaf's schedule",
}


@pytest.mark.parametrize("text", CASES)
def test_a_formula_becomes_tex(text):
    assert typeset(text) == CASES[text]


@pytest.mark.parametrize(
    "text",
    ["the wrapped objective's, a mean over the real values", "as `patch_critic`", "|f - (b+ - b-)|^2", "f(x, (t)"],
)
def test_words_and_what_is_not_known_stay(text):
    assert typeset(text) == text
