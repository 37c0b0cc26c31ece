// What the page shows (read once), what the reader chose (kept in the address, so that a reload and a sent link show
// the same), and the small helpers of the other parts.
const data = JSON.parse(document.getElementById("data").textContent);
const pictures = JSON.parse(document.getElementById("pictures").textContent);

const DEFAULTS = {
  sort: "",
  q: "",
  without: "",
  hidden: "",
  per: data.seeds.length ? "groups" : "runs",
  error: "ci",
  columns: "",
  open: "",
  theme: "",
  metric: "",
  smooth: "0",
  log: "",
  lines: "mean",
  colour: data.groups.length > 16 && data.fields.length > 1 ? data.fields[0] : "-", // "-": every setting its own
  y: "",
  x1: "",
  x2: "",
  logx: "",
  logy: "",
  show: "",
  kind: "",
  size: "260",
  top: "",
};
const state = {...DEFAULTS};
const watchers = [];

function readState() {
  const address = new URLSearchParams(location.hash.slice(1));
  for (const name in DEFAULTS) state[name] = address.get(name) ?? DEFAULTS[name];
}

function writeState() {
  const address = new URLSearchParams();
  for (const name in DEFAULTS) if (state[name] !== DEFAULTS[name]) address.set(name, state[name]);
  const text = address.toString();
  history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
}

// Changes some of the state and draws anew what depends on it: watch(names, draw).
function choose(changes) {
  const changed = Object.keys(changes).filter(name => state[name] !== changes[name]);
  Object.assign(state, changes);
  writeState();
  for (const {names, draw} of watchers) if (changed.some(name => names.includes(name))) draw();
}

function watch(names, draw) {
  watchers.push({names, draw});
}

// A choice of several, kept as text: "a|b".
const listed = name => new Set(state[name] ? state[name].split("|") : []);

function toggle(name, item, on) {
  const now = listed(name);
  (on ?? !now.has(item)) ? now.add(item) : now.delete(item);
  choose({[name]: [...now].join("|")});
}

const SVG = new Set(["svg", "g", "path", "line", "rect", "circle", "text", "clipPath"]);

// An element: attributes, "on..." listeners, children as nodes or text. Nothing is ever parsed as HTML.
function el(tag, attributes = {}, ...children) {
  const made = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter(child => child !== null && child !== undefined));
  return made;
}

const button = (label, press, attributes = {}) =>
  el("button", {type: "button", class: "copy", onclick: press, ...attributes}, label);

function number(value, digits = 4) {
  if (value === null || value === undefined) return "—";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return String(value);
  if (size >= 1e6 || size < 1e-4)
    return value
      .toExponential(Math.min(2, digits - 1))
      .replace(/\.?0+e/, "e")
      .replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}

function duration(seconds) {
  if (!seconds) return "—";
  const whole = Math.round(seconds),
    pad = x => String(x).padStart(2, "0");
  if (whole < 60) return `${seconds < 10 ? seconds.toFixed(1) : whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${pad(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h${pad(Math.floor(whole / 60) % 60)}m`;
  return `${Math.floor(whole / 86400)}d${pad(Math.floor(whole / 3600) % 24)}h`;
}

// A drop-down: options are [value, text].
function select(name, label, options) {
  const made = el(
    "select",
    {id: "choose-" + name, onchange: event => choose({[name]: event.target.value})},
    options.map(([value, text]) => el("option", {value, selected: state[name] === value}, text)),
  );
  return el("label", {class: "choice"}, el("span", {}, label), made);
}

// Whether an axis is logarithmic: as chosen, or where its values span more than so many times the least.
const isLog = (name, values, span) =>
  values.length > 0 &&
  values.every(value => value > 0) &&
  (state[name] === "1" || (state[name] === "" && Math.max(...values) > span * Math.min(...values)));

const axis = (name, label) =>
  select(name, label, [
    ["", "auto"],
    ["1", "log"],
    ["0", "linear"],
  ]);

// A button that copies; where the browser forbids that (an old one, from a file), it selects the text instead.
function copier(text, label = "Copy", title = "Copy the command") {
  const press = async event => {
    event.stopPropagation();
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = el("textarea", {class: "aside", readonly: true});
      area.value = text;
      made.after(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    made.textContent = "Copied";
    setTimeout(() => {
      made.textContent = label;
    }, 1200);
  };
  const made = button(label, press, {title});
  return made;
}

// A command with breaks between its words alone: a browser would part "--" from what follows.
const wordsOf = text => text.split(/( |\n)/).map(word => (/^\s?$/.test(word) ? word : el("span", {}, word)));

function command(text) {
  return el("div", {class: "command"}, el("code", {class: "words"}, wordsOf(text)), copier(text));
}

function download(name, type, text) {
  const link = el("a", {download: name, href: `data:${type};charset=utf-8,` + encodeURIComponent(text)});
  document.body.append(link);
  link.click();
  link.remove();
}

const csv = lines =>
  lines
    .map(line =>
      line
        .map(cell => {
          const text = cell === null || cell === undefined ? "" : String(cell);
          return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
        })
        .join(","),
    )
    .join("\n") + "\n";

function showDialog(title, ...content) {
  const box = document.getElementById("dialog");
  const close = button("×", () => box.close(), {class: "close", "aria-label": "Close"});
  box.setAttribute("aria-label", title);
  box.replaceChildren(el("div", {class: "dialog-head"}, el("h2", {}, title), close), ...content);
  if (!box.open) box.showModal();
  return box;
}

function showTip(event, lines) {
  const tip = document.getElementById("tip");
  tip.replaceChildren(...lines.map((line, i) => el(i ? "div" : "strong", {}, line)));
  tip.hidden = false;
  const {width, height} = tip.getBoundingClientRect();
  const left = event.clientX + 14 + width > innerWidth ? event.clientX - width - 10 : event.clientX + 14;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.min(event.clientY + 12, innerHeight - height - 4) + "px";
}

const hideTip = () => {
  document.getElementById("tip").hidden = true;
};
