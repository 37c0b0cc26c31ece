// The table: sorted by a click on a column's head, filtered by words and by values; a row opens to its commands.
const shownFigures = () => {
  const chosen = listed("columns");
  return data.figures
    .filter(figure => (chosen.size ? chosen.has(figure.name) : figure.usual))
    .map(figure => figure.name);
};

function columns() {
  const fields = fieldLabels().map((label, i) => ({
    key: "f:" + label,
    label,
    value: row => asNumber(row.values[i]) ?? row.values[i],
  }));
  const figures = shownFigures().map(name => ({
    key: "v:" + name,
    label: name,
    figure: name,
    value: row => row.figures[name]?.[0],
  }));
  return [
    ...fields,
    {
      key: "status",
      label: state.per === "groups" ? "runs" : "status",
      value: row => STATUSES.indexOf(row.status) + row.done / 1000,
    },
    ...figures,
    {key: "seconds", label: "time", value: row => row.seconds, right: true},
  ];
}

function sorted(rows, all) {
  const [key, way] = [state.sort.replace(/^-/, ""), state.sort.startsWith("-") ? -1 : 1];
  const column = all.find(candidate => candidate.key === key);
  if (!column) return rows;
  const missing = value => value === undefined || value === null || value === "";
  return [...rows].sort((a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    if (missing(x) || missing(y)) return missing(x) - missing(y); // at the end either way
    const both = typeof x === "number" && typeof y === "number";
    return way * (both ? x - y : String(x).localeCompare(String(y), undefined, {numeric: true}));
  });
}

function best(rows, name) {
  const better = direction(name),
    values = rows.map(row => row.figures[name]?.[0]).filter(value => value !== undefined);
  if (!better || values.length < 2) return null;
  return better === "lower" ? Math.min(...values) : Math.max(...values);
}

function head(all) {
  const key = state.sort.replace(/^-/, "");
  const cells = all.map(column => {
    const on = column.key === key,
      down = state.sort.startsWith("-");
    const better = column.figure && direction(column.figure);
    const mark = better
      ? el("span", {class: "better", title: better + " is better"}, better === "lower" ? "↓" : "↑")
      : null;
    const sort = () => choose({sort: on && !down ? "-" + key : column.key});
    const name = button(column.label, sort, {class: null, "data-sort": column.key});
    const arrow = el("span", {class: "arrow", "aria-hidden": "true"}, on ? (down ? "▾" : "▴") : "");
    name.append(...[mark, arrow].filter(Boolean));
    const order = on ? (down ? "descending" : "ascending") : null;
    return el("th", {scope: "col", class: column.figure || column.right ? "right" : null, "aria-sort": order}, name);
  });
  return el("tr", {}, el("th", {scope: "col", class: "narrow"}, el("span", {class: "aside"}, "drawn")), cells);
}

function cell(row, column, bests, ranges) {
  if (column.key === "status") {
    const text = state.per === "groups" ? `${row.done}/${row.of}` : row.status;
    const title = row.runs.map(run => `${run.name}: ${run.status}`).join("\n");
    return el(
      "td",
      {title},
      el("span", {class: "dot " + row.status}),
      text,
      row.status !== "done" && state.per === "groups" ? el("small", {}, " " + row.status) : null,
    );
  }
  if (column.key === "seconds") return el("td", {class: "right quiet"}, duration(row.seconds));
  if (!column.figure)
    return el("td", {}, row.values[fieldLabels().indexOf(column.label)] || el("span", {class: "quiet"}, "—"));
  const figure = row.figures[column.figure];
  if (!figure) return el("td", {class: "right quiet"}, "—");
  const around = spread(row, column.figure),
    top = bests[column.figure] === figure[0];
  const half = around && around.high > around.low ? `± ${number((around.high - around.low) / 2, 2)}` : null;
  const [low, high] = ranges[column.figure],
    share = high > low ? (figure[0] - low) / (high - low) : 0;
  const title = around ? `${number(around.low)} to ${number(around.high)}, ${around.what}` : "how this was made";
  const link = el(
    "a",
    {
      href: "#",
      title,
      "data-figure": column.figure,
      onclick: event => {
        event.preventDefault();
        openRow(row.key, true);
      },
    },
    number(figure[0]),
    half ? el("small", {}, " " + half) : null,
  );
  return el("td", {class: top ? "right best" : "right", style: `--share:${(100 * share).toFixed(1)}%`}, link);
}

function openRow(key, stay = false) {
  choose({open: state.open === key && !stay ? "" : key});
  document.querySelector(`[data-detail="${key}"]`)?.scrollIntoView({block: "nearest"});
}

function detail(row, width) {
  const lines = row.runs.map(run => {
    const figures = Object.entries(run.figures).map(([name, [value, low, high, n]]) =>
      el(
        "div",
        {class: "pair"},
        el("dt", {}, name),
        el(
          "dd",
          {},
          number(value, 5),
          low === null ? null : el("small", {}, ` (${number(low)} to ${number(high)})`),
          n ? el("small", {}, ` n = ${n}`) : null,
        ),
      ),
    );
    return el(
      "article",
      {},
      el("h3", {}, el("span", {class: "dot " + run.status}), run.name),
      el(
        "p",
        {class: "quiet"},
        `${run.status}, ${duration(run.seconds)}`,
        run.attempts > 1 ? `, ${run.attempts} attempts` : "",
        ` · ${run.workdir}`,
      ),
      run.reason ? el("pre", {class: "reason"}, run.reason) : null,
      command(run.command),
      figures.length ? el("dl", {}, figures) : null,
      el(
        "div",
        {class: "thumbs"},
        Object.entries(run.images).map(([kind, at]) => thumb(run, kind, at)),
      ),
    );
  });
  return el("tr", {class: "detail", "data-detail": row.key}, el("td", {colspan: width}, lines));
}

function drawTable() {
  const all = columns(),
    rows = sorted(passing(), all),
    hidden = listed("hidden"),
    bests = {},
    ranges = {};
  for (const name of shownFigures()) {
    bests[name] = best(rows, name);
    const values = rows.map(row => row.figures[name]?.[0]).filter(value => value !== undefined);
    ranges[name] = [Math.min(...values), Math.max(...values)];
  }
  const lines = rows.flatMap(row => {
    const drawn = !hidden.has(String(row.group)),
      open = state.open === row.key;
    const eye = el("input", {
      type: "checkbox",
      checked: drawn,
      "data-group": row.group,
      "aria-label": `draw ${row.name}`,
      onchange: event => toggle("hidden", String(row.group), !event.target.checked),
    });
    const opener = button(open ? "▾" : "▸", () => openRow(row.key), {
      class: "opener",
      "aria-expanded": String(open),
      "aria-label": `details of ${row.name}`,
    });
    const line = el(
      "tr",
      {class: (drawn ? "" : "off ") + (open ? "open" : ""), "data-key": row.key},
      el("td", {class: "narrow"}, opener, eye),
      all.map(column => cell(row, column, bests, ranges)),
    );
    return open ? [line, detail(row, all.length + 1)] : [line];
  });
  const body = document.getElementById("table-body"),
    total = allRows().length;
  const near = document.activeElement?.dataset?.sort;
  body.classList.toggle("tall", rows.length > 40);
  body.replaceChildren(el("table", {}, el("thead", {}, head(all)), el("tbody", {}, lines)));
  if (near) body.querySelector(`[data-sort="${CSS.escape(near)}"]`)?.focus();
  document.getElementById("count").textContent =
    rows.length === total ? `${total} ${state.per === "groups" ? "settings" : "runs"}` : `${rows.length} of ${total}`;
}

function tableCsv() {
  const all = columns().filter(column => column.key !== "seconds" && column.key !== "status");
  const header = [
    ...all.flatMap(column =>
      column.figure ? [column.figure, column.figure + "_low", column.figure + "_high"] : [column.label],
    ),
    "runs_done",
    "runs",
    "seconds",
    "command",
  ];
  return csv([
    header,
    ...sorted(passing(), columns()).map(row => [
      ...all.flatMap(column =>
        column.figure
          ? [row.figures[column.figure]?.[0], spread(row, column.figure)?.low, spread(row, column.figure)?.high]
          : [column.value(row)],
      ),
      row.done,
      row.of,
      row.seconds,
      row.runs.map(run => run.command).join("\n"),
    ]),
  ]);
}

function startTable() {
  const filter = el("input", {
    type: "search",
    id: "filter",
    placeholder: "Filter: words, fid<5, steps=20",
    value: state.q,
    "aria-label": "Filter the rows",
    oninput: event => choose({q: event.target.value}),
  });
  document.getElementById("table-part").append(
    el(
      "div",
      {class: "title"},
      el("h2", {id: "table-title"}, "Results"),
      el("span", {id: "count", class: "quiet", role: "status"}),
      button("CSV", () => download(data.name + ".csv", "text/csv", tableCsv())),
    ),
    el(
      "div",
      {class: "bar"},
      filter,
      el("span", {id: "menus"}),
      data.seeds.length
        ? select("per", "rows", [
            ["groups", "means over " + data.seeds.join(", ")],
            ["runs", "single runs"],
          ])
        : null,
      select("error", "±", [
        ["ci", "95 % interval"],
        ["sd", "standard deviation"],
        ["none", "none"],
      ]),
    ),
    el("div", {id: "table-body", class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of results"}),
    el("p", {class: "note"}, data.note),
  );
  watch(["sort", "q", "without", "hidden", "per", "error", "columns", "open"], drawTable);
  watch(["per", "without", "columns", "q", "hidden"], drawFilters);
  drawFilters();
  drawTable();
}
