// What the runs made, side by side: the same seeds of the noise at the same places.
function picture(run, kind, at, attributes, ...below) {
  const image = el("img", {src: pictures[at], alt: `${kind} of ${run.name}`, decoding: "async"});
  const made = button("", () => enlarge(run, kind, at), attributes);
  made.replaceChildren(image, ...below);
  return made;
}

function thumb(run, kind, at) {
  return picture(run, kind, at, {class: "thumb", title: `${kind} of ${run.name}`}, el("span", {}, kind));
}

function enlarge(run, kind, at) {
  const all = shownPictures(kind),
    here = all.findIndex(other => other.run.name === run.name);
  const go = by => {
    const next = all[(here + by + all.length) % all.length];
    enlarge(next.run, kind, next.at);
  };
  const box = showDialog(
    run.name,
    el("p", {class: "quiet"}, `${kind} · ${aboutFigures(run)}`),
    el("div", {class: "big"}, el("img", {src: pictures[at], alt: `${kind} of ${run.name}`})),
    here < 0
      ? null
      : el(
          "p",
          {class: "turn"},
          button("← before", () => go(-1), {class: null}),
          ` ${here + 1} of ${all.length} `,
          button("next →", () => go(1), {class: null}),
        ),
    command(run.command),
  );
  box.onkeydown = event => {
    if (here >= 0 && event.key === "ArrowRight") go(1);
    if (here >= 0 && event.key === "ArrowLeft") go(-1);
  };
}

const aboutFigures = run =>
  shownFigures()
    .filter(name => run.figures[name])
    .slice(0, 3)
    .map(name => `${name} ${number(run.figures[name][0])}`)
    .join(" · ") || run.status;

// One run of each setting that is drawn, the first seed that has the picture: so all have equal seeds.
function shownPictures(kind) {
  return shownGroups().flatMap(row => {
    const runs = row.runs.filter(
      run => kind in run.images && (!state.show || !data.seeds.length || run.seeds.join(", ") === state.show),
    );
    return runs.slice(0, 1).map(run => ({row, run, at: run.images[kind]}));
  });
}

function drawPictures() {
  const kinds = [...new Set(data.runs.flatMap(run => Object.keys(run.images)))];
  const kind = kinds.includes(state.kind) ? state.kind : kinds.includes("samples") ? "samples" : kinds[0];
  for (const tab of document.querySelectorAll("[data-kind]"))
    tab.setAttribute("aria-pressed", String(tab.dataset.kind === kind));
  const lines = series(groupRows(), []),
    shown = shownPictures(kind);
  document
    .getElementById("pictures-body")
    .replaceChildren(
      ...shown.map(({row, run, at}) =>
        el(
          "figure",
          {},
          picture(run, kind, at, {class: "picture", title: "enlarge"}),
          el(
            "figcaption",
            {},
            el("strong", {}, lines[row.group]?.label ?? row.name),
            el("span", {class: "quiet"}, aboutFigures(run)),
            copier(run.command, "Copy command"),
          ),
        ),
      ),
    );
  document.getElementById("pictures-body").style.setProperty("--tile", state.size + "px");
  const seeds = new Set(shown.map(({run}) => run.sample_seed));
  document.getElementById("pictures-note").textContent = !shown.length
    ? "No run that is shown has such a picture."
    : kind === "samples"
      ? seeds.size === 1
        ? "Equal seeds: the sample at a place begins with the same noise in every picture (all have one sample.seed)."
        : "These runs differ in sample.seed: their samples begin with different noise."
      : "";
}

function startPictures() {
  const part = document.getElementById("pictures-part");
  const kinds = [...new Set(data.runs.flatMap(run => Object.keys(run.images)))];
  if (!kinds.length) return part.remove();
  const tabs = el(
    "span",
    {class: "tabs", role: "group", "aria-label": "Kind of picture"},
    kinds.map(kind => button(kind, () => choose({kind}), {class: null, "data-kind": kind})),
  );
  const seeds = [...new Set(data.runs.map(run => run.seeds.join(", ")))].filter(Boolean);
  part.append(
    el("div", {class: "title"}, el("h2", {id: "pictures-title"}, "Pictures side by side")),
    el(
      "div",
      {class: "bar"},
      tabs,
      seeds.length > 1
        ? select("show", data.seeds.join(", "), [["", "the first"], ...seeds.map(seed => [seed, seed])])
        : null,
      el(
        "label",
        {class: "choice"},
        el("span", {}, "size"),
        el("input", {
          type: "range",
          id: "choose-size",
          min: 120,
          max: 620,
          step: 20,
          value: state.size,
          oninput: event => choose({size: event.target.value}),
        }),
      ),
    ),
    el("p", {id: "pictures-note", class: "note"}),
    el("div", {id: "pictures-body", class: "gallery"}),
  );
  watch(["hidden", "q", "without", "show", "size", "kind", "columns", "per"], drawPictures);
  drawPictures();
}
