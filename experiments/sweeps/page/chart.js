// Charts as SVG: scales, axes, a legend that switches groups off, and what a card has besides (commands, SVG, CSV).
const COLOURS = 10,
  DASHES = ["", "6 4", "2 3", "9 3 2 3"];
const colour = i => `var(--c${i % COLOURS})`;
const dash = i => DASHES[Math.floor(i / COLOURS) % DASHES.length];

// The strokes of some lines, {stroke, dash} each: one colour after the other, or, where the lines are the values of a
// number (steps, a learning rate), hues in its order.
function strokes(labels) {
  const values = labels.map(asNumber);
  if (labels.length < 4 || values.includes(null)) return labels.map((_, i) => ({stroke: colour(i), dash: dash(i)}));
  const order = [...values].sort((a, b) => a - b);
  const hue = value => Math.round(262 - (232 * order.indexOf(value)) / (labels.length - 1));
  return values.map(value => ({stroke: `hsl(${hue(value)} 62% 52%)`, dash: ""}));
}

function linear([low, high], [from, to]) {
  const scale = value => from + ((value - low) / (high - low || 1)) * (to - from);
  const raw = (high - low || 1) / 5,
    power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map(m => m * power).find(s => s >= raw);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++)
    ticks.push(Number((i * step).toPrecision(10)));
  return {scale, ticks, format: value => number(value, 6)};
}

function logarithmic([low, high], [from, to]) {
  const [a, b] = [Math.log10(low), Math.log10(high)];
  const scale = value => from + ((Math.log10(Math.max(value, low * 1e-6)) - a) / (b - a || 1)) * (to - from);
  const marks = b - a > 3 ? [1] : b - a > 1.2 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
  const ticks = [];
  for (let power = Math.floor(a); power <= Math.ceil(b); power++) {
    for (const m of marks)
      if (m * 10 ** power >= low * 0.999 && m * 10 ** power <= high * 1.001)
        ticks.push(Number((m * 10 ** power).toPrecision(6)));
  }
  return {scale, ticks: ticks.length > 1 ? ticks : [low, high], format: value => number(value, 3)};
}

function categories(names, [from, to]) {
  const width = (to - from) / names.length;
  return {scale: value => from + (names.indexOf(value) + 0.5) * width, ticks: names, format: value => value, width};
}

// The range of values with a margin; on a log scale as a factor.
function range(values, log, margin = 0.05) {
  const known = values.filter(value => Number.isFinite(value) && (!log || value > 0));
  if (!known.length) return log ? [0.1, 1] : [0, 1];
  let [low, high] = [Math.min(...known), Math.max(...known)];
  if (log)
    return low === high ? [low / 1.5, high * 1.5] : [low / (high / low) ** margin, high * (high / low) ** margin];
  const room = margin * (high - low) || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

let clips = 0;

// Axes in a box: {svg, plot, x, y}; x and y are {label, kind: "linear" | "log" | "names", domain}.
function frame(box, x, y, label, height = 330) {
  const width = Math.max(260, box.clientWidth),
    names = x.kind === "names",
    narrow = width < 480;
  const right = width - 14,
    left = 54,
    room = (right - left) / (names ? x.domain.length : 1);
  const long = names && Math.max(...x.domain.map(name => name.length)) * 6.6 > room - 6;
  const bottom = height - (long ? 104 : 44);
  const make = (axis, ends) => ({linear, log: logarithmic, names: categories})[axis.kind](axis.domain, ends);
  const X = make(x, [left, right]),
    Y = make(y, [bottom, 12]);
  const clip = "clip" + clips++;
  const plot = el("g", {"clip-path": `url(#${clip})`});
  const spaced = (ticks, scale, gap) => {
    let last = -Infinity;
    return ticks.filter(tick => Math.abs(scale(tick) - last) >= gap && ((last = scale(tick)), true));
  };
  const xTicks = names ? X.ticks : spaced(X.ticks, X.scale, narrow ? 40 : 34);
  const yTicks = spaced(Y.ticks, Y.scale, 18);
  const svg = el(
    "svg",
    {width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label},
    el("clipPath", {id: clip}, el("rect", {x: left, y: 6, width: right - left + 6, height: bottom - 6})),
    yTicks.map(tick => {
      const at = Y.scale(tick);
      return el("g", {class: "grid"}, rule(left, right, at, at), text(left - 8, at + 4, "end", Y.format(tick)));
    }),
    xTicks.map(tick => {
      const at = X.scale(tick);
      const name = long
        ? text(at + 4, bottom + 14, "end", shorten(X.format(tick), 22), {turn: -32})
        : text(at, bottom + 18, "middle", X.format(tick));
      return el("g", {class: "grid"}, names ? null : rule(at, at, 12, bottom), name);
    }),
    rule(left, right, bottom, bottom, {class: "axis"}),
    text((left + right) / 2, height - 6, "middle", x.label, {class: "label"}),
    text(12, (bottom + 12) / 2, "middle", y.label, {class: "label", turn: -90}),
    plot,
  );
  box.replaceChildren(svg);
  return {svg, plot, x: X, y: Y, left, right, bottom};
}

const rule = (x1, x2, y1, y2, attributes = {}) => el("line", {x1, x2, y1, y2, ...attributes});

const text = (x, y, anchor, words, {turn = 0, ...attributes} = {}) => {
  const transform = `translate(${x} ${y}) rotate(${turn})`;
  return el("text", {"text-anchor": anchor, transform, ...attributes}, words);
};

// Brings out the lines of one key; null brings out all.
const brighten = plot => key =>
  plot.querySelectorAll("[data-line]").forEach(line => {
    line.style.opacity = key === null || line.dataset.line === key ? 1 : 0.15;
  });

const shorten = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

const path = points => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

// The button line of a card, by what it draws.
function tools(name, what) {
  return el(
    "span",
    {class: "tools"},
    button("Commands", () => showCommands(name, what().rows)),
    button("SVG", () => download(`${data.name}-${name}.svg`, "image/svg+xml", standalone(what().box))),
    button("CSV", () => download(`${data.name}-${name}.csv`, "text/csv", csv(what().lines()))),
  );
}

function showCommands(name, rows) {
  const runs = [...new Set(rows.flatMap(row => row.runs))];
  const text = runs.map(run => `# ${run.name}\n${run.command}`).join("\n");
  showDialog(
    `How ${name} was made`,
    el("p", {}, "The whole sweep, and this page from its folder:"),
    command(data.command),
    command(data.page_command),
    el("p", {}, `The ${runs.length} runs that are drawn, each by its own:`, " ", copier(text, "Copy all")),
    el("pre", {class: "commands words"}, wordsOf(text)),
  );
}

// The SVG with the colours that the page has now, so that it looks the same on its own.
function standalone(box) {
  const svg = box.querySelector("svg"),
    copy = svg.cloneNode(true),
    now = getComputedStyle(document.documentElement);
  const rules =
    ".grid line{stroke:var(--line)} .grid text,.label{fill:var(--quiet)} .axis{stroke:var(--quiet)} " +
    "text{font:12px sans-serif}";
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.prepend(el("style", {}, rules));
  return copy.outerHTML.replace(/var\((--[\w-]+)\)/g, (_, name) => now.getPropertyValue(name).trim());
}

// A legend: entries {label, key, stroke, dash, groups}; a click draws or hides its groups, a pointer over it brings it out.
function legend(entries, emphasise) {
  const hidden = listed("hidden");
  return el(
    "ul",
    {class: "legend"},
    entries.map(entry => {
      const off = entry.groups.every(group => hidden.has(String(group)));
      const look = {stroke: entry.stroke, "stroke-width": 2.5, "stroke-dasharray": entry.dash};
      const stroke = el("line", {x1: 1, x2: 25, y1: 6, y2: 6, ...look});
      const line = el("svg", {width: 26, height: 12, "aria-hidden": "true"}, stroke);
      const press = () => {
        const now = listed("hidden");
        entry.groups.forEach(group => (off ? now.delete(String(group)) : now.add(String(group))));
        choose({hidden: [...now].join("|")});
      };
      const made = button(entry.label, press, {
        "aria-pressed": String(!off),
        class: off ? "off" : null,
        "data-legend": entry.key,
        onpointerenter: () => emphasise(entry.key),
        onpointerleave: () => emphasise(null),
        onfocus: () => emphasise(entry.key),
        onblur: () => emphasise(null),
      });
      made.prepend(line);
      return el("li", {}, made);
    }),
  );
}

function keepFocus(box, draw) {
  const key = document.activeElement?.dataset?.legend;
  draw();
  if (key !== undefined && box.contains(document.activeElement) === false)
    box.querySelector(`[data-legend="${CSS.escape(key)}"]`)?.focus({preventScroll: true});
}

// Draws now and whenever the width changes.
function responsive(box, draw) {
  let last = 0;
  new ResizeObserver(() => {
    if (box.clientWidth !== last) {
      last = box.clientWidth;
      draw();
    }
  }).observe(box);
}

// Rows by the values of all fields but some: what one line or one colour stands for.
function series(rows, without) {
  const kept = data.fields.map((label, i) => i).filter(i => !without.includes(data.fields[i]));
  const varying = kept.filter(i => new Set(rows.map(row => row.values[i])).size > 1);
  const lines = new Map();
  for (const row of rows) {
    const key = kept.map(i => row.values[i]).join("|");
    if (!lines.has(key))
      lines.set(key, {key, label: varying.map(i => row.values[i] || "—").join(", ") || data.name, rows: []});
    lines.get(key).rows.push(row);
  }
  return [...lines.values()];
}
