"use strict";
const SMALL = 128; // pixels: pictures up to this size are enlarged without smoothing
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" };
const part = (id) => document.getElementById(id);
const sides = { left: part("left").querySelector("img"), right: part("right").querySelector("img") };
let voter = "";
let turn = null;
let waiting = false; // true between a vote and its answer, so that one press counts once

async function request(path, body) {
  const how = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, how);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function load(image, address) {
  return new Promise((done, failed) => {
    image.onload = () => {
      image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) <= SMALL);
      done();
    };
    image.onerror = () => failed(new Error("a picture could not be loaded"));
    image.src = address;
  });
}

async function show(state) {
  turn = null; // until both pictures have loaded, so that nobody votes on pictures that are not visible
  part("who").hidden = true;
  part("arena").hidden = state.turn === null;
  part("end").hidden = state.turn !== null;
  if (state.turn === null) return;
  part("question").textContent = state.question;
  part("request").textContent = state.request;
  part("bar").max = state.of;
  part("bar").value = state.voted;
  part("count").textContent = `${state.voted} of ${state.of}`;
  const address = (side) => `/picture?${new URLSearchParams({ voter, turn: state.turn, side })}`;
  await Promise.all(Object.entries(sides).map(([side, image]) => load(image, address(side))));
  turn = state.turn;
  document.body.dataset.turn = turn; // what is shown now, for tests
}

async function act(make) {
  if (waiting) return;
  waiting = true;
  try {
    await show(await make());
    part("error").hidden = true;
  } catch (error) {
    part("error").textContent = `${error.message.trim()}. Is the command still running? Your earlier votes are kept; try again.`;
    part("error").hidden = false;
  } finally {
    waiting = false;
  }
}

const next = () => request(`/turn?${new URLSearchParams({ voter })}`);
const vote = (side) => act(() => (turn === null ? next() : request("/vote", { voter, turn, side })));
const undo = () => act(() => request("/undo", { voter }));

part("who").addEventListener("submit", (event) => {
  event.preventDefault();
  voter = part("name").value.trim();
  if (voter) act(next);
});
for (const side of ["left", "right", "tie"]) part(side).addEventListener("click", () => vote(side));
part("undo").addEventListener("click", undo);
document.addEventListener("keydown", (event) => {
  if (!part("who").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in KEYS) vote(KEYS[event.key]);
  else if (event.key === "Backspace") undo();
  else return;
  event.preventDefault();
});
