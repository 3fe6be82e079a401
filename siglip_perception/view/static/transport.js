// Play, pause, step and scrub, for sources that have an end.

export class Transport {
  constructor(connection) {
    this.connection = connection;
    this.element = document.getElementById("transport");
    this.button = document.getElementById("play");
    this.scrub = document.getElementById("scrub");
    this.playing = false;
    this.held = false;
    this.button.addEventListener("click", () => this.toggle());
    document.getElementById("back").addEventListener("click", () => this.step(-1));
    document.getElementById("on").addEventListener("click", () => this.step(1));
    this.scrub.addEventListener("input", () => {
      this.held = true;
      connection.send({ type: "seek", index: Number(this.scrub.value) });
    });
    this.scrub.addEventListener("change", () => { this.held = false; });
  }

  toggle() {
    if (!this.element.hidden) this.connection.send({ type: "play", on: !this.playing });
  }

  step(by) {
    if (!this.element.hidden) this.connection.send({ type: "step", by });
  }

  state(state) {
    this.element.hidden = state.count === null || state.count < 2;
    this.playing = state.playing;
    this.count = state.count;
    this.scrub.max = String(Math.max((state.count ?? 1) - 1, 0));
    this.button.textContent = state.playing ? "Pause" : "Play";
    this.button.setAttribute("aria-pressed", String(state.playing));
  }

  frame(head) {
    if (!this.held) this.scrub.value = String(head.index);
    const place = this.count ? `${head.index + 1} / ${this.count}` : `${head.index + 1}`;
    document.getElementById("place").textContent = `${place} · ${head.time.toFixed(2)} s`;
    this.scrub.setAttribute("aria-valuetext", `frame ${place}, ${head.time.toFixed(1)} seconds`);
  }
}
