// The drop-downs above the table: which values of each field are shown, and which columns.
function menu(name, label, items, checked, change) {
  return el(
    "details",
    {class: "menu", "data-menu": name, ontoggle: event => keepInside(event.target.querySelector(".sheet"))},
    el("summary", {}, label),
    el(
      "div",
      {class: "sheet"},
      items.map(([value, text]) =>
        el(
          "label",
          {},
          el("input", {
            type: "checkbox",
            checked: checked(value),
            onchange: event => change(value, event.target.checked),
          }),
          text,
        ),
      ),
    ),
  );
}

// Moves an open sheet to the left by as much as it would stick out of the window.
function keepInside(sheet) {
  sheet.style.left = "0";
  const beyond = sheet.getBoundingClientRect().right + 8 - document.documentElement.clientWidth;
  if (beyond > 0) sheet.style.left = `${-beyond}px`;
}

function drawFilters() {
  const without = listed("without"),
    labels = fieldLabels();
  const kinds = labels.map((label, i) => [label, [...new Set(allRows().map(row => row.values[i]))]]);
  kinds.push(["status", STATUSES.filter(status => data.runs.some(run => run.status === status))]);
  const menus = kinds
    .filter(([, values]) => values.length > 1 && values.length <= 60)
    .map(([label, values]) => {
      const off = values.filter(value => without.has(`${label}=${value}`)).length;
      return menu(
        label,
        off ? `${label} (${values.length - off} of ${values.length})` : label,
        values.map(value => [value, value || "—"]),
        value => !without.has(`${label}=${value}`),
        (value, on) => toggle("without", `${label}=${value}`, !on),
      );
    });
  const chosen = new Set(shownFigures());
  menus.push(
    menu(
      "columns",
      "columns",
      data.figures.map(figure => [figure.name, figure.name]),
      name => chosen.has(name),
      (name, on) => {
        on ? chosen.add(name) : chosen.delete(name);
        choose({
          columns: data.figures
            .map(figure => figure.name)
            .filter(known => chosen.has(known))
            .join("|"),
        });
      },
    ),
  );
  const opened = document.querySelector("details.menu[open]")?.dataset.menu;
  const box = document.getElementById("menus");
  box.replaceChildren(...menus);
  if (opened) box.querySelector(`[data-menu="${CSS.escape(opened)}"]`)?.setAttribute("open", "");
  const some = state.q || state.without || state.hidden;
  box.append(
    button(
      "Clear",
      () => {
        document.getElementById("filter").value = "";
        choose({q: "", without: "", hidden: ""});
      },
      {class: "clear", hidden: !some},
    ),
  );
}
