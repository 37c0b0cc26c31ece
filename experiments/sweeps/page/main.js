// The head of the page, the theme, and the watch for news while the sweep runs.
function drawHead() {
  const counts = STATUSES.map(status => [status, data.runs.filter(run => run.status === status).length])
    .filter(([, n]) => n)
    .reverse();
  const total = data.runs.length,
    seconds = data.runs.reduce((sum, run) => sum + run.seconds, 0);
  const words = {"": "auto", light: "light", dark: "dark"},
    next = {"": "dark", dark: "light", light: ""};
  const theme = button(`Colours: ${words[state.theme]}`, () => choose({theme: next[state.theme]}), {id: "theme"});
  const live = counts.some(([status]) => status === "running" || status === "queued");
  document.getElementById("head").replaceChildren(
    el("div", {class: "title"}, el("h1", {}, data.name), theme),
    el(
      "p",
      {class: "quiet"},
      `${data.file} · ${data.fields.join(" × ") || "nothing varies"}`,
      data.seeds.length ? ` · over ${data.seeds.join(", ")}` : "",
    ),
    el(
      "div",
      {class: "progress", role: "img", "aria-label": counts.map(([status, n]) => `${n} ${status}`).join(", ")},
      counts.map(([status, n]) => el("span", {class: status, style: `flex:${n}`})),
    ),
    el(
      "p",
      {class: "counts"},
      counts.map(([status, n]) => el("span", {}, el("span", {class: "dot " + status}), `${n} ${status}`)),
      el("span", {class: "quiet"}, `${total} runs, ${duration(seconds)} of computing`),
      el("span", {class: "quiet", id: "written"}, `written ${data.written}${live ? ", follows the sweep" : ""}`),
    ),
    command(data.command),
  );
}

function drawTheme() {
  if (state.theme) document.documentElement.dataset.theme = state.theme;
  else delete document.documentElement.dataset.theme;
  drawHead();
}

// A page in a file cannot read other files, but it can run one: news.js beside it says which version there is.
function follow() {
  let touched = 0;
  for (const kind of ["pointerdown", "keydown", "wheel", "touchmove"])
    addEventListener(
      kind,
      () => {
        touched = Date.now();
      },
      {passive: true},
    );
  window.sweepNews = version => {
    const busy = Date.now() - touched < 1500 || document.getElementById("dialog").open;
    if (version === data.version || busy) return;
    clearInterval(timer);
    state.top = String(Math.round(scrollY));
    writeState();
    location.reload();
  };
  const timer = setInterval(() => {
    const script = el("script", {
      src: `${data.news}?${Date.now()}`,
      onload: () => script.remove(),
      onerror: () => {
        clearInterval(timer);
        script.remove();
      },
    });
    document.body.append(script);
  }, data.poll);
}

readState();
drawTheme();
watch(["theme"], drawTheme);
startTable();
startAgainst();
startCurves();
startPictures();
document
  .getElementById("foot")
  .append(
    el(
      "p",
      {class: "quiet"},
      "Made by ",
      el("code", {}, data.page_command),
      " ",
      copier(data.page_command),
      ". This page holds everything that it shows and asks no network for anything.",
    ),
  );
if (state.top) {
  const top = Number(state.top);
  choose({top: ""});
  // Once the charts and the pictures have their height.
  addEventListener("load", () => requestAnimationFrame(() => requestAnimationFrame(() => scrollTo(0, top))));
}
if (data.live) follow();
addEventListener("hashchange", () => location.reload());
addEventListener("click", event => {
  for (const open of document.querySelectorAll("details.menu[open]"))
    if (!open.contains(event.target)) open.open = false;
});
addEventListener("keydown", event => {
  if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    document.getElementById("filter").focus();
  }
  if (event.key === "Escape") for (const open of document.querySelectorAll("details.menu[open]")) open.open = false;
});
