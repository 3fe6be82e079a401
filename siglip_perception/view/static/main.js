// Wires the page: what comes from the server to its parts, and their wishes to the server.

import { Connection } from "./connection.js";
import { showFacts, showTimings } from "./facts.js";
import { Maps } from "./maps.js";
import { Presence } from "./presence.js";
import { Stage } from "./stage.js";
import { Transport } from "./transport.js";

const element = (id) => document.getElementById(id);
const box = element("instruction");
const presence = new Presence();
const stage = new Stage((x, y) => connection.send({ type: "pin", x, y }));
const shownAt = [];
let state = null;
let refusal = "";

const connection = new Connection({
  async frame(head, blobs) {
    await stage.show(head, blobs.get("picture"));
    presence.show(head);
    maps.show(blobs);
    transport.frame(head);
    showTimings(head);
    rate();
    document.body.dataset.frame = head.frame;
  },
  state(message) {
    state = message;
    refusal = "";
    element("title").textContent = `${state.title} (${state.kind})`;
    document.title = `${state.title}: view`;
    // Why this backend stands among the facts.
    const text = state.model_text.split(" (")[0];
    element("model").textContent = state.model === "ready" ? text : `model: ${text}`;
    alertText("trouble", state.model === "failed" ? state.model_text : state.trouble);
    stage.palette = presence.palette = state.palette;
    transport.state(state);
    maps.source(state.kind);
    element("threshold-row").hidden = state.kind === "node";  // a parameter of the node's
    cameras();
    if (document.activeElement !== element("threshold")) {
      element("threshold").value = state.threshold ?? 0.5;
      element("threshold-value").textContent = state.threshold?.toFixed(2) ?? "calibrated";
    }
    if (document.activeElement !== box) box.value = state.instruction;
    element("follow").hidden = state.kind !== "bag" || state.following;
    if (!state.pin) maps.hideProbe();
    say();
    showFacts(state);
  },
  error(text) {
    refusal = text;
    say();
  },
  lost(text) {
    alertText("lost", text);
  },
});
const maps = new Maps(connection, stage);
const transport = new Transport(connection);

function alertText(id, text) {
  if (element(id).textContent === text) return;
  element(id).textContent = text;
  element(id).hidden = !text;
}

function say() {
  const level = refusal ? 2 : state?.detail_level ?? 0;
  element("said").className = ["", "warn", "error", "error"][level];
  const detail = state?.detail || (state?.instruction ? `looking for: ${state.instruction}` : "");
  element("said").textContent = refusal || detail;
}

function cameras() {
  const select = element("camera");
  element("camera-row").hidden = state.cameras.length < 2;
  if (select.options.length !== state.cameras.length) {
    select.replaceChildren(...state.cameras.map((name) => new Option(name, name)));
  }
  select.value = state.camera;
}

function rate() {
  const now = performance.now();
  shownAt.push(now);
  while (shownAt.length && shownAt[0] < now - 2000) shownAt.shift();
  const span = now - shownAt[0];
  const frames = span > 0 ? ((shownAt.length - 1) * 1000) / span : 0;
  element("rate").textContent = shownAt.length > 2 ? `${frames.toFixed(1)} frames/s here` : "";
}

element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  refusal = "";
  connection.send({ type: "instruct", text: box.value });
});
element("follow").addEventListener("click", () => connection.send({ type: "follow" }));
element("unpin").addEventListener("click", () => connection.send({ type: "unpin" }));
element("camera").addEventListener("change", (event) => connection.send({ type: "choose", camera: event.target.value }));
element("labels").addEventListener("change", (event) => { stage.labels = event.target.checked; stage.draw(); });
element("threshold").addEventListener("input", (event) => {
  element("threshold-value").textContent = Number(event.target.value).toFixed(2);
  connection.send({ type: "threshold", value: Number(event.target.value) });
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=text], select");
  if (event.key === "Escape") {
    box.blur();
    stage.cursor = null;
    connection.send({ type: "unpin" });
  } else if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    if (event.key === "/") box.focus();
    else if (event.key === ",") transport.step(-1);
    else if (event.key === ".") transport.step(1);
    else if (event.key === " " && !event.target.matches("button, summary, input, a")) transport.toggle();
    else return;
    event.preventDefault();
  }
});
