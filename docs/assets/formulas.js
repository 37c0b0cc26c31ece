// Sets the formulas of a page, which stand in it as TeX, with KaTeX from this folder: no server, no network.
document.addEventListener("DOMContentLoaded", () => {
  for (const formula of document.querySelectorAll(".arithmatex")) {
    const display = formula.tagName === "DIV";
    katex.render(formula.textContent.replace(/^\\[(\[]|\\[)\]]$/g, ""), formula, { displayMode: display, throwOnError: false });
  }
});
