// Panels with pictures of the grid of patches, and the one that lies over the picture.

import { colorCanvas, levelCanvas } from "./grids.js";

const NAMES = { fused: "fused", siglip: "SigLIP", dinov2: "DINOv2", dinov3: "DINOv3" };

export class Maps {
  constructor(connection, stage) {
    this.connection = connection;
    this.stage = stage;
    this.over = "";
    this.figures = new Map();
    this.phrase = document.getElementById("heat-phrase");
    this.panels = { heat: document.getElementById("heat-panel"), tokens: document.getElementById("tokens-panel") };
    const wide = window.matchMedia("(min-width: 52rem)").matches;
    for (const panel of Object.values(this.panels)) {
      panel.open = wide;
      panel.addEventListener("toggle", () => this.tell());
    }
    this.heatButton = document.getElementById("heat-over");
    this.heatButton.addEventListener("click", () => this.lay("heat"));
    this.phrase.addEventListener("change", () => this.drawHeat());
    this.tell();
  }

  // Beside a node the map needs a model of the page's own: only where a person opens it.
  source(kind) {
    if (kind === "node" && !this.kind) this.panels.heat.open = false;
    this.kind = kind;
  }

  tell() {
    const open = Object.keys(this.panels).filter((name) => this.panels[name].open);
    this.connection.show(open);
    if (this.over && !open.includes(this.over.split(":")[0])) this.lay(this.over);
  }

  // Lay a map over the picture; the one that lies there is taken away.
  lay(name) {
    this.over = this.over === name ? "" : name;
    this.heatButton.setAttribute("aria-pressed", String(this.over === "heat"));
    for (const [key, figure] of this.figures) {
      figure.button.setAttribute("aria-pressed", String(this.over === `tokens:${key}`));
    }
    this.lie();
  }

  lie() {
    const figure = this.over === "heat" ? this.heat : this.figures.get(this.over.split(":")[1]);
    this.stage.over = figure?.place ? { canvas: figure.canvas, place: figure.place } : null;
    this.stage.draw();
  }

  show(blobs) {
    const heat = blobs.get("heat");
    if (heat) {
      this.heatBlob = heat;
      this.choices(heat.phrases);
      this.drawHeat();
    }
    for (const [name, blob] of blobs) {
      if (!name.startsWith("tokens:")) continue;
      const figure = this.figure(name.slice("tokens:".length));
      colorCanvas(blob, figure.canvas);
      figure.place = blob;
    }
    const pin = blobs.get("pin");
    if (pin) this.showProbe(pin);
    if (this.over) this.lie();
  }

  choices(phrases) {
    const known = Array.from(this.phrase.options, (option) => option.value);
    if (JSON.stringify(known) === JSON.stringify(phrases)) return;
    const before = this.phrase.value;
    this.phrase.replaceChildren(...phrases.map((phrase) => new Option(phrase, phrase)));
    if (phrases.includes(before)) this.phrase.value = before;
  }

  drawHeat() {
    const blob = this.heatBlob;
    if (!blob) return;
    const index = Math.max(this.phrase.selectedIndex, 0);
    const canvas = document.getElementById("heat");
    levelCanvas(blob, index * blob.rows * blob.cols, canvas);
    this.heat = { canvas, place: blob };
    const [low, high] = blob.ranges[index];
    document.getElementById("heat-range").textContent =
      `cosine of each patch (SigLIP): dark ${low.toFixed(3)}, bright ${high.toFixed(3)}`;
    if (this.over === "heat") this.lie();
  }

  figure(key) {
    if (!this.figures.has(key)) {
      const element = document.createElement("figure");
      const canvas = document.createElement("canvas");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = NAMES[key] ?? key;
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => this.lay(`tokens:${key}`));
      element.append(canvas, button);
      document.getElementById("tokens").append(element);
      this.figures.set(key, { canvas, button });
    }
    return this.figures.get(key);
  }

  showProbe(blob) {
    document.getElementById("probe-panel").hidden = false;
    levelCanvas(blob, 0, document.getElementById("alike"));
    const count = blob.rows * blob.cols;
    this.stage.probe = { place: blob, patch: blob.patch, thing: blob.data.subarray(count, 2 * count) };
    document.getElementById("nearest").replaceChildren(...blob.nearest.map(([phrase, value]) => {
      const item = document.createElement("li");
      item.textContent = `${phrase} ${value.toFixed(2)}`;
      return item;
    }));
    this.stage.draw();
  }

  hideProbe() {
    document.getElementById("probe-panel").hidden = true;
    this.stage.probe = null;
    this.stage.draw();
  }
}
