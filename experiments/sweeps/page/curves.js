// Curves of training overlaid: a line for each setting (its mean over seeds, with their range) or for each run.
function curveNames() {
  return [...new Set(data.runs.flatMap(run => Object.keys(run.curves)))];
}

// The mean of some runs' curves at the steps that all of them have, with the least and the most.
function meanCurve(runs, name) {
  const curves = runs.map(run => run.curves[name]).filter(Boolean);
  if (!curves.length) return null;
  const maps = curves.map(([steps, values]) => new Map(steps.map((step, i) => [step, values[i]])));
  const steps = curves[0][0].filter(step => maps.every(map => map.has(step)));
  const all = steps.map(step => maps.map(map => map.get(step)));
  return {
    steps,
    values: all.map(values => values.reduce((a, b) => a + b, 0) / values.length),
    low: all.map(values => Math.min(...values)),
    high: all.map(values => Math.max(...values)),
    n: curves.length,
  };
}

function smooth(values, share) {
  const half = Math.round((share * values.length) / 2);
  if (!half) return values;
  return values.map((_, i) => {
    const part = values.slice(Math.max(0, i - half), i + half + 1);
    return part.reduce((a, b) => a + b, 0) / part.length;
  });
}

// Colours: one for each setting, or one for each value of a field.
function paints(rows) {
  const field = data.fields.indexOf(state.colour),
    every = groupRows();
  if (field < 0) {
    const labels = series(every, []).map(line => line.label),
      tones = strokes(labels);
    return {
      of: row => row.group,
      entries: every.map((row, i) => ({key: String(i), label: labels[i], groups: [row.group], ...tones[i]})),
    };
  }
  const values = [...new Set(every.map(row => row.values[field]))],
    tones = strokes(values);
  return {
    of: row => values.indexOf(row.values[field]),
    entries: values.map((value, i) => ({
      key: String(i),
      label: value || "—",
      ...tones[i],
      groups: every.filter(row => row.values[field] === value).map(row => row.group),
    })),
  };
}

function drawCurves() {
  const box = document.getElementById("curves"),
    name = state.metric,
    share = Number(state.smooth) / 100;
  const rows = shownGroups(),
    paint = paints(rows),
    single = state.lines === "runs";
  const lines = rows.flatMap(row =>
    single
      ? row.runs
          .filter(run => run.curves[name])
          .map(run => ({row, name: run.name, steps: run.curves[name][0], values: run.curves[name][1], n: 1}))
      : [meanCurve(row.runs, name)]
          .filter(curve => curve && curve.steps.length)
          .map(curve => ({row, name: row.name, ...curve})),
  );
  for (const line of lines) line.shown = smooth(line.values, share);
  const values = lines.flatMap(line => line.shown).sort((a, b) => a - b),
    log = isLog(
      "log",
      [values[0], values[Math.floor(0.99 * (values.length - 1))]].filter(value => value !== undefined),
      4,
    );
  drawn.curves = {
    box,
    rows,
    lines: () => [
      ["name", "step", name],
      ...lines.flatMap(line => line.steps.map((step, i) => [line.name, step, line.values[i]])),
    ],
  };
  const legendBox = document.getElementById("curves-legend");
  if (!lines.length) {
    box.replaceChildren(el("p", {class: "empty"}, "No run that is shown has this curve yet."));
    legendBox.replaceChildren(legend(paint.entries, () => {}));
    return;
  }
  // The first steps are far above the rest, and would flatten it.
  const most = log ? values.at(-1) : values[Math.floor(0.985 * (values.length - 1))];
  const last = Math.max(...lines.map(line => line.steps.at(-1))),
    first = Math.min(...lines.map(line => line.steps[0]));
  const of = frame(
    box,
    {label: "step", kind: "linear", domain: [Math.min(first, 0.1 * last), last]},
    {label: name, kind: log ? "log" : "linear", domain: range([values[0], most], log)},
    `${name} by step`,
    360,
  );
  for (const line of lines) {
    const i = paint.of(line.row),
      {stroke, dash} = paint.entries[i],
      point = (step, value) => [of.x.scale(step), of.y.scale(value)];
    const group = el("g", {"data-line": String(i)});
    if (line.n > 1 && lines.length <= 40) {
      const up = line.steps.map((step, k) => point(step, smooth(line.high, share)[k])),
        down = line.steps.map((step, k) => point(step, smooth(line.low, share)[k]));
      group.append(el("path", {d: path([...up, ...down.reverse()]) + "Z", fill: stroke, opacity: 0.14}));
    }
    group.append(
      el("path", {
        class: "line",
        d: path(line.steps.map((step, k) => point(step, line.shown[k]))),
        stroke,
        fill: "none",
        "stroke-width": lines.length > 60 ? 1 : 1.8,
        "stroke-dasharray": dash,
        "stroke-linejoin": "round",
      }),
    );
    if (line.steps.length === 1)
      group.append(el("circle", {cx: of.x.scale(line.steps[0]), cy: of.y.scale(line.shown[0]), r: 3, fill: stroke}));
    of.plot.append(group);
  }
  const emphasise = brighten(of.plot);
  const marker = el("circle", {r: 4, fill: "var(--ink)", visibility: "hidden"});
  of.plot.append(marker);
  const nearest = event => {
    const {left, top} = of.svg.getBoundingClientRect(),
      [px, py] = [event.clientX - left, event.clientY - top];
    let best = null;
    for (const line of lines) {
      let [low, high] = [0, line.steps.length - 1];
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        of.x.scale(line.steps[middle]) > px ? (high = middle) : (low = middle);
      }
      const k = Math.abs(of.x.scale(line.steps[low]) - px) < Math.abs(of.x.scale(line.steps[high]) - px) ? low : high;
      const [x, y] = [of.x.scale(line.steps[k]), of.y.scale(line.shown[k])],
        away = Math.hypot(2 * (x - px), y - py);
      if (!best || away < best.away) best = {line, k, x, y, away};
    }
    return best;
  };
  of.svg.addEventListener("pointermove", event => {
    const {line, k, x, y, away} = nearest(event);
    if (away > 90) {
      hideTip();
      marker.setAttribute("visibility", "hidden");
      return emphasise(null);
    }
    marker.setAttribute("cx", x);
    marker.setAttribute("cy", y);
    marker.setAttribute("visibility", "visible");
    emphasise(String(paint.of(line.row)));
    showTip(event, [
      line.name,
      `step ${line.steps[k]}: ${number(line.shown[k], 5)}`,
      line.n > 1 ? `mean of ${line.n} runs, ${number(line.low[k])} to ${number(line.high[k])}` : "one run",
      "click: how it was made",
    ]);
  });
  of.svg.addEventListener("pointerleave", () => {
    hideTip();
    marker.setAttribute("visibility", "hidden");
    emphasise(null);
  });
  of.svg.addEventListener("click", event => {
    hideTip();
    choose({per: "groups"});
    openRow(nearest(event).line.row.key, true);
  });
  keepFocus(legendBox, () => legendBox.replaceChildren(legend(paint.entries, emphasise)));
}

function startCurves() {
  const part = document.getElementById("curves-part"),
    names = curveNames();
  if (!names.length) return part.remove();
  if (!names.includes(state.metric)) state.metric = names.includes("loss") ? "loss" : names[0];
  const slider = el("input", {
    type: "range",
    id: "choose-smooth",
    min: 0,
    max: 30,
    step: 1,
    value: state.smooth,
    oninput: event => choose({smooth: event.target.value}),
  });
  part.append(
    el(
      "div",
      {class: "title"},
      el("h2", {id: "curves-title"}, "Curves of training"),
      tools("curves", () => drawn.curves),
    ),
    el(
      "div",
      {class: "bar"},
      select(
        "metric",
        "curve",
        names.map(name => [name, name]),
      ),
      data.seeds.length
        ? select("lines", "lines", [
            ["mean", "means over " + data.seeds.join(", ")],
            ["runs", "single runs"],
          ])
        : null,
      data.fields.length > 1
        ? select("colour", "colour by", [["-", "setting"], ...data.fields.map(label => [label, label])])
        : null,
      axis("log", "y"),
      el("label", {class: "choice"}, el("span", {}, "smooth"), slider),
    ),
    el("div", {class: "card wide"}, el("div", {class: "chart", id: "curves"}), el("div", {id: "curves-legend"})),
  );
  watch(["metric", "lines", "colour", "log", "smooth", "hidden", "q", "without", "theme", "per"], drawCurves);
  responsive(document.getElementById("curves"), drawCurves);
}
