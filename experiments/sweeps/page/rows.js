// The rows that pass the filter, for the table and every chart alike: groups of seeds, or single runs.
//
// A row: {key, group, name, values, status, done, of, seconds, figures {name: [value, low, high, n, std]}, runs}.
function groupRows() {
  return data.groups.map((group, index) => {
    const runs = group.runs.map(i => data.runs[i]);
    return {
      key: "g" + index,
      group: index,
      name: group.name,
      values: group.values,
      runs,
      figures: group.figures,
      status: worst(runs),
      done: runs.filter(run => run.status === "done").length,
      of: runs.length,
      seconds: runs.reduce((sum, run) => sum + run.seconds, 0),
    };
  });
}

function runRows() {
  return data.runs.map((run, index) => ({
    key: "r" + index,
    group: run.group,
    name: run.name,
    values: [...run.values, ...run.seeds],
    runs: [run],
    figures: run.figures,
    status: run.status,
    done: run.status === "done" ? 1 : 0,
    of: 1,
    seconds: run.seconds,
  }));
}

const STATUSES = ["failed", "stopped", "running", "queued", "done"];
const worst = runs => STATUSES.find(status => runs.some(run => run.status === status)) ?? "queued";

const allRows = () => (state.per === "groups" ? groupRows() : runRows());
const fieldLabels = () => (state.per === "groups" ? data.fields : [...data.fields, ...data.seeds]);

const asNumber = text => (text !== "" && !Number.isNaN(Number(text)) ? Number(text) : null);

// "fid<5 v min_snr": every word has to fit; NAME<NUMBER compares a figure or a field, NAME=TEXT a field.
function fits(row) {
  const labels = fieldLabels();
  for (const item of listed("without")) {
    const cut = item.indexOf("="),
      field = labels.indexOf(item.slice(0, cut)),
      value = item.slice(cut + 1);
    if (item.slice(0, cut) === "status" ? row.status === value : field >= 0 && row.values[field] === value)
      return false;
  }
  const text = [row.name, ...row.values, row.status].join(" ").toLowerCase();
  return state.q
    .toLowerCase()
    .split(/\s+/)
    .filter(Boolean)
    .every(word => {
      const parts = word.match(/^([^<>=]+)(<=|>=|<|>|=)([^<>=]+)$/);
      if (!parts) return text.includes(word);
      const [, name, sign, wanted] = parts;
      const field = labels.findIndex(label => label.toLowerCase() === name);
      const figure = Object.keys(row.figures).find(known => known.toLowerCase() === name);
      const own = field >= 0 ? row.values[field] : figure ? String(row.figures[figure][0]) : "";
      const [a, b] = [asNumber(own), asNumber(wanted)];
      if (a === null || b === null) return sign === "=" ? own.toLowerCase() === wanted : text.includes(word);
      return {"<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b, "=": a === b}[sign];
    });
}

const passing = () => allRows().filter(fits);

// What the charts draw: the groups of the rows that pass and that are not switched off, whichever way the table shows
// them.
function shownGroups() {
  const hidden = listed("hidden"),
    groups = new Set(passing().map(row => row.group));
  return groupRows().filter(row => groups.has(row.group) && !hidden.has(String(row.group)));
}

// The ends of a figure's error bar, and what it is; null where there is none.
function spread(row, name) {
  const figure = row.figures[name];
  if (!figure || state.error === "none") return null;
  const [value, low, high, n, std] = figure;
  if (state.error === "sd" && std !== null && std !== undefined)
    return {low: value - std, high: value + std, what: `± 1 standard deviation of ${n} runs`};
  if (low !== null && row.key[0] === "g" && n > 1)
    return state.error === "ci" ? {low, high, what: `95 % interval of the mean of ${n} runs`} : null;
  const own = row.key[0] === "g" ? row.runs.find(run => run.status === "done")?.figures[name] : figure;
  if (state.error === "ci" && own && own[1] !== null)
    return {low: own[1], high: own[2], what: "95 % interval over the samples of one run"};
  return null;
}

const direction = name => data.figures.find(figure => figure.name === name)?.better ?? null;
