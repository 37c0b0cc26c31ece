// A figure against what it costs (network evaluations, seconds), a number that varies, or a choice; with error bars.
const wanted = ["fid", "fd_inception", "fd_classifier", "fd_pixels", "asked_class", "loss"];

// What can stand on the horizontal axis: [value, text], "f:" a field and "v:" a figure.
function crossings() {
  const figures = data.figures
    .map(figure => figure.name)
    .filter(name => {
      const values = new Set(data.groups.map(group => group.figures[name]?.[0]).filter(value => value !== undefined));
      return values.size > 1 && (name === "nfe" || name.startsWith("seconds/") || name === "step");
    });
  return [
    ...figures.map(name => ["v:" + name, AXES[name] ?? name]),
    ...data.fields.map(label => ["f:" + label, label]),
  ];
}

const AXES = {
  nfe: "network evaluations (NFE)",
  "seconds/train": "seconds of training",
  "seconds/sample": "seconds of sampling",
  "seconds/evaluate": "seconds of evaluation",
  "seconds/total": "seconds of all commands",
  step: "training steps",
};

const numeric = label => data.groups.every(group => asNumber(group.values[data.fields.indexOf(label)]) !== null);

function settleAgainst() {
  const names = data.figures.map(figure => figure.name);
  if (!names.includes(state.y)) state.y = wanted.find(name => names.includes(name)) ?? names[0] ?? "";
  const known = crossings().map(([value]) => value),
    has = name => known.includes(name);
  const number = data.fields.find(numeric);
  if (!has(state.x1))
    state.x1 = has("v:nfe") ? "v:nfe" : number ? "f:" + number : (known.find(value => value[0] === "f") ?? "");
  if (!has(state.x2)) {
    const costs = has("v:nfe")
      ? ["v:seconds/sample", "v:seconds/total"]
      : ["v:seconds/train", "v:seconds/total", "v:seconds/sample"];
    const differs = name => {
      // a cost that is nearly the same for all says nothing
      const values = data.groups.map(group => group.figures[name.slice(2)]?.[0]).filter(value => value > 0);
      return has(name) && Math.max(...values) > 1.5 * Math.min(...values);
    };
    const field = data.fields.map(label => "f:" + label).find(value => value !== state.x1);
    state.x2 = costs.find(differs) ?? field ?? known.find(value => value !== state.x1) ?? "";
  }
}

const crossing = (row, x) =>
  x[0] === "f"
    ? numeric(x.slice(2))
      ? Number(row.values[data.fields.indexOf(x.slice(2))])
      : row.values[data.fields.indexOf(x.slice(2))]
    : row.figures[x.slice(2)]?.[0];

// What a series leaves out: the field on the axis; for a cost, every number that drives it (steps), so that a line is
// the way of one setting.
const apart = x => (x[0] === "f" ? [x.slice(2)] : data.fields.filter(numeric));

function drawAgainst(which) {
  const box = document.getElementById("against-" + which),
    x = state[which],
    y = state.y;
  const rows = shownGroups().filter(row => row.figures[y] && crossing(row, x) !== undefined && crossing(row, x) !== "");
  const everything = series(
    groupRows().filter(row => row.figures[y] && crossing(row, x) !== undefined),
    apart(x),
  );
  const lines = series(rows, apart(x)).map(line => ({
    ...line,
    i: everything.findIndex(each => each.key === line.key),
    label: everything.find(each => each.key === line.key)?.label ?? line.label,
  }));
  const tones = strokes(everything.map(line => line.label));
  const names = x[0] === "f" && !numeric(x.slice(2));
  const at = rows.map(row => crossing(row, x)),
    bars = rows.map(row => spread(row, y)),
    middle = rows.map(row => row.figures[y][0]);
  const logx = !names && isLog("logx", at, 8),
    logy = isLog("logy", middle, 12);
  // A bar that is far longer than all differences would flatten them: it runs out of the chart.
  const span = Math.max(...middle) - Math.min(...middle) || Math.abs(middle[0]) || 1;
  const ends = bars.flatMap((bar, i) =>
    bar ? [Math.max(bar.low, middle[i] - span), Math.min(bar.high, middle[i] + span)] : [],
  );
  const domain = names
    ? [...new Set(groupRows().map(row => crossing(row, x)))].filter(name => at.includes(name))
    : range(at, logx);
  const label = crossings().find(([value]) => value === x)?.[1] ?? "";
  drawn[which] = {box, rows, lines: () => csv2(rows, x, y)};
  if (!rows.length) {
    box.replaceChildren(
      el("p", {class: "empty"}, y ? "No finished run has this figure yet." : "No run is finished yet."),
    );
    document.getElementById("legend-" + which).replaceChildren();
    return;
  }
  const of = frame(
    box,
    {label, kind: names ? "names" : logx ? "log" : "linear", domain},
    {label: y, kind: logy ? "log" : "linear", domain: range([...middle, ...ends], logy)},
    `${y} against ${label}`,
  );
  const slots = lines.length,
    wide = names ? Math.min(of.x.width * 0.7, 26 * slots) : 0;
  for (const [place, line] of lines.entries()) {
    const shift = names && slots > 1 ? ((place + 0.5) / slots - 0.5) * wide : 0,
      {stroke} = tones[line.i];
    const points = line.rows
      .map(row => [of.x.scale(crossing(row, x)) + shift, of.y.scale(row.figures[y][0]), row])
      .sort((a, b) => a[0] - b[0]);
    const group = el("g", {"data-line": line.key, style: `--line-colour:${stroke}`});
    if (!names && points.length > 1)
      group.append(
        el("path", {
          class: "line",
          d: path(points),
          stroke,
          fill: "none",
          "stroke-width": 2,
          "stroke-dasharray": tones[line.i].dash,
        }),
      );
    for (const [px, py, row] of points) {
      const bar = spread(row, y);
      if (bar) {
        const [low, high] = [of.y.scale(bar.low), of.y.scale(bar.high)];
        group.append(
          el("path", {
            class: "bar",
            d: `M${px} ${low}V${high}M${px - 4} ${low}h8M${px - 4} ${high}h8`,
            stroke,
            fill: "none",
            "stroke-width": 1.4,
          }),
        );
      }
      if (row.runs.length > 1)
        for (const run of row.runs) {
          const value = run.figures[y]?.[0];
          if (value !== undefined && run.status === "done")
            group.append(
              el("circle", {class: "seed", cx: px, cy: of.y.scale(value), r: 2, fill: stroke, opacity: 0.45}),
            );
        }
      group.append(
        el("circle", {
          class: "point",
          cx: px,
          cy: py,
          r: 4.5,
          fill: stroke,
          stroke: "var(--card)",
          "stroke-width": 1.5,
          "data-key": row.key,
          onpointerenter: event => showTip(event, tooltip(row, x, y, bar)),
          onpointerleave: hideTip,
          onclick: () => {
            hideTip();
            choose({per: "groups"});
            openRow(row.key, true);
          },
        }),
      );
    }
    of.plot.append(group);
  }
  const emphasise = brighten(of.plot);
  const every = everything.map((line, i) => ({
    key: line.key,
    label: line.label,
    ...tones[i],
    groups: line.rows.map(row => row.group),
  }));
  const shownLegend = document.getElementById("legend-" + which);
  keepFocus(shownLegend, () => shownLegend.replaceChildren(every.length > 1 ? legend(every, emphasise) : ""));
}

function tooltip(row, x, y, bar) {
  const of = crossing(row, x),
    figure = row.figures[y];
  return [
    row.name,
    `${y} = ${number(figure[0], 5)}${bar ? ` (${number(bar.low)} to ${number(bar.high)})` : ""}`,
    bar ? bar.what : "no error bar: one run",
    x[0] === "v" ? `${AXES[x.slice(2)] ?? x.slice(2)}: ${number(of)}` : "",
    "click: how it was made",
  ].filter(Boolean);
}

const csv2 = (rows, x, y) => [
  [...data.fields, x.slice(2), y, "low", "high", "runs"],
  ...rows.map(row => {
    const bar = spread(row, y);
    return [...row.values, crossing(row, x), row.figures[y][0], bar?.low, bar?.high, row.done];
  }),
];

const drawn = {};

function startAgainst() {
  const part = document.getElementById("against-part");
  if (!data.figures.length || !data.fields.length) return part.remove();
  settleAgainst();
  const controls = el(
    "div",
    {class: "bar"},
    select(
      "y",
      "figure",
      data.figures.map(figure => [figure.name, figure.name]),
    ),
    axis("logx", "x"),
    axis("logy", "y"),
  );
  const cards = ["x1", "x2"]
    .filter(which => state[which])
    .map(which =>
      el(
        "div",
        {class: "card"},
        el(
          "div",
          {class: "title"},
          select(which, "against", crossings()),
          tools(which === "x1" ? "this chart" : "this second chart", () => drawn[which]),
        ),
        el("div", {class: "chart", id: "against-" + which}),
        el("div", {id: "legend-" + which}),
      ),
    );
  part.append(
    el("div", {class: "title"}, el("h2", {id: "against-title"}, "Figures against their cost and the settings")),
    controls,
    el("div", {class: "pair-of-cards"}, cards),
  );
  for (const which of ["x1", "x2"])
    if (state[which]) {
      const draw = () => drawAgainst(which);
      watch(["y", which, "logx", "logy", "hidden", "q", "without", "error", "theme", "per"], draw);
      responsive(document.getElementById("against-" + which), draw);
    }
}
