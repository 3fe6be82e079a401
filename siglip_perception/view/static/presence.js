// Bars of how likely each phrase is in view, and their last half minute.

const SECONDS = 30;

export class Presence {
  constructor() {
    this.list = document.getElementById("presence");
    this.rows = new Map();
    this.palette = [];
    this.spokenAt = 0;
    this.spoken = "";
  }

  show(head) {
    const phrases = head.phrases;
    for (const [phrase, row] of this.rows) {
      if (phrases.includes(phrase)) continue;
      row.item.remove();
      this.rows.delete(phrase);
    }
    document.getElementById("nothing").hidden = phrases.length > 0;
    const now = performance.now() / 1000;
    phrases.forEach((phrase, index) => {
      const row = this.rows.get(phrase) ?? this.add(phrase);
      const color = this.palette[index % this.palette.length] ?? "#00c8ff";
      const value = head.presence[index];
      const count = head.objects.filter((item) => item.text === phrase && !item.lost).length;
      row.swatch.style.background = color;
      row.fill.style.background = color;
      row.fill.style.width = `${(value * 100).toFixed(1)}%`;
      row.bar.setAttribute("aria-valuenow", value.toFixed(2));
      row.value.textContent = value.toFixed(2);
      row.state.textContent = count === 0 ? "not found" : count === 1 ? "found" : `found, ${count} of them`;
      row.past.push([now, value]);
      while (row.past.length > 2 && row.past[1][0] < now - SECONDS) row.past.shift();
      this.plot(row, now, color);
    });
    this.speak(head, now);
  }

  add(phrase) {
    const make = (kind, name) => Object.assign(document.createElement(kind), { className: name });
    const row = {
      item: document.createElement("li"), swatch: make("span", "swatch"), words: make("span", "phrase"),
      value: make("span", "value"), bar: make("div", "bar"), fill: document.createElement("div"),
      state: make("span", "state"), plot: document.createElement("canvas"), past: [],
    };
    row.words.textContent = phrase;
    row.bar.setAttribute("role", "meter");
    row.bar.setAttribute("aria-label", `${phrase} in view`);
    row.bar.setAttribute("aria-valuemin", "0");
    row.bar.setAttribute("aria-valuemax", "1");
    row.plot.setAttribute("aria-hidden", "true");
    row.bar.append(row.fill);
    row.item.append(row.swatch, row.words, row.value, row.bar, row.state, row.plot);
    this.list.append(row.item);
    this.rows.set(phrase, row);
    return row;
  }

  plot(row, now, color) {
    const { plot, past } = row;
    const ratio = window.devicePixelRatio || 1;
    const width = plot.clientWidth * ratio;
    const height = plot.clientHeight * ratio;
    if (plot.width !== width || plot.height !== height) Object.assign(plot, { width, height });
    const pen = plot.getContext("2d");
    pen.clearRect(0, 0, width, height);
    pen.strokeStyle = "rgba(128, 128, 128, .5)";
    pen.lineWidth = ratio;
    pen.strokeRect(0, 0, width, height);
    pen.beginPath();
    for (const [at, value] of past) {
      pen.lineTo(width * (1 - (now - at) / SECONDS), height * (1 - value));
    }
    pen.strokeStyle = color;
    pen.lineWidth = 2 * ratio;
    pen.stroke();
  }

  // What a screen reader says: changes only, and at most every two seconds.
  speak(head, now) {
    const found = head.phrases.map((phrase) => {
      const best = head.objects.filter((item) => item.text === phrase);
      return best.length ? `${phrase} found` : `${phrase} not found`;
    }).join(", ");
    if (found === this.spoken || now - this.spokenAt < 2) return;
    this.spoken = found;
    this.spokenAt = now;
    document.getElementById("spoken").textContent = found;
  }
}
