// The picture, and over it outlines, labels, a map and the cursor.

const LOST_DASH = [6, 5];

export class Stage {
  // pick(x, y): a point of the picture was chosen, in shares of its width and height.
  constructor(pick) {
    this.element = document.getElementById("stage");
    this.frame = document.getElementById("frame");
    this.marks = document.getElementById("marks");
    this.head = null;
    this.palette = [];
    this.over = null;  // { canvas, place }
    this.probe = null;  // { place, patch, thing }
    this.cursor = null;
    this.labels = true;
    this.element.addEventListener("click", (event) => {
      const box = this.frame.getBoundingClientRect();
      const picture = this.shownBox(box);
      const x = (event.clientX - box.left - picture.left) / picture.width;
      const y = (event.clientY - box.top - picture.top) / picture.height;
      if (x >= 0 && x <= 1 && y >= 0 && y <= 1) pick(x, y);
    });
    this.element.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (move) {
        const [x, y] = this.cursor ?? [0.5, 0.5];
        const inside = (value) => Math.min(Math.max(value, 0), 1);
        this.cursor = [inside(x + move[0] / 40), inside(y + move[1] / 40)];
        this.draw();
        event.preventDefault();
      } else if (event.key === "Enter" && this.cursor) {
        pick(...this.cursor);
        event.preventDefault();
      }
    });
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  // Where the picture lies in the canvas' box: object-fit leaves bars where its height is limited.
  shownBox(box) {
    const scale = Math.min(box.width / this.frame.width, box.height / this.frame.height);
    const width = this.frame.width * scale;
    const height = this.frame.height * scale;
    return { left: (box.width - width) / 2, top: (box.height - height) / 2, width, height };
  }

  async show(head, picture) {
    const bitmap = await createImageBitmap(new Blob([picture.data], { type: "image/jpeg" }));
    if (this.frame.width !== bitmap.width || this.frame.height !== bitmap.height) {
      this.frame.width = bitmap.width;
      this.frame.height = bitmap.height;
    }
    this.frame.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    this.head = head;
    document.getElementById("waiting").hidden = true;
    this.draw();
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const box = this.frame.getBoundingClientRect();
    this.marks.width = Math.round(box.width * ratio);
    this.marks.height = Math.round(box.height * ratio);
    const pen = this.marks.getContext("2d");
    pen.scale(ratio, ratio);
    if (!this.head || !box.width) return;
    const area = this.shownBox(box);
    pen.translate(area.left, area.top);
    if (this.over) this.drawMap(pen, area, this.over);
    if (this.probe) this.drawThing(pen, area, this.probe);
    const scale = area.width / this.head.width;
    const taken = [];
    const items = drawable(this.head.objects);
    for (const item of items) {
      // Two phrases may mean one thing: one outline, and a label each.
      const twin = items.some((other) => other !== item && other.outline.length && iou(other.box, item.box) > 0.8);
      if (item.outline.length || item.lost || !twin) this.drawOutline(pen, item, scale);
    }
    if (this.labels) for (const item of items) this.drawLabel(pen, item, scale, area, taken);
    if (this.cursor) this.drawCursor(pen, area);
  }

  drawMap(pen, area, { canvas, place }) {
    pen.save();
    pen.beginPath();
    pen.rect(0, 0, area.width, area.height);
    pen.clip();
    pen.globalAlpha = 0.65;
    pen.imageSmoothingEnabled = true;
    const left = place.left * area.width;
    const top = place.top * area.height;
    pen.drawImage(canvas, left, top, place.right * area.width - left, place.bottom * area.height - top);
    pen.restore();
  }

  drawThing(pen, area, { place, thing, patch }) {
    const across = ((place.right - place.left) * area.width) / place.cols;
    const down = ((place.bottom - place.top) * area.height) / place.rows;
    for (let i = 0; i < thing.length; i += 1) {
      if (!thing[i] && i !== patch) continue;
      const x = place.left * area.width + (i % place.cols) * across;
      const y = place.top * area.height + Math.floor(i / place.cols) * down;
      pen.fillStyle = "rgba(255, 255, 255, .35)";
      pen.fillRect(x, y, across, down);
      if (i === patch) {
        pen.lineWidth = 2;
        pen.strokeStyle = "#000";
        pen.strokeRect(x - 1, y - 1, across + 2, down + 2);
        pen.strokeStyle = "#fff";
        pen.strokeRect(x, y, across, down);
      }
    }
  }

  color(item) {
    return this.palette[item.phrase % this.palette.length] ?? "#00c8ff";
  }

  drawOutline(pen, item, scale) {
    pen.beginPath();
    for (const points of item.outline) {
      for (let i = 0; i < points.length; i += 2) {
        const x = (points[i] + 0.5) * scale;
        const y = (points[i + 1] + 0.5) * scale;
        if (i === 0) pen.moveTo(x, y);
        else pen.lineTo(x, y);
      }
      pen.closePath();
    }
    if (!item.outline.length) pen.rect(...item.box.map((value) => value * scale));
    pen.setLineDash(item.lost > 0 ? LOST_DASH : []);
    pen.lineJoin = "round";
    pen.strokeStyle = "rgba(0, 0, 0, .75)";
    pen.lineWidth = 5;
    pen.stroke();
    pen.strokeStyle = this.color(item);
    pen.lineWidth = 2.5;
    pen.stroke();
    pen.setLineDash([]);
  }

  drawLabel(pen, item, scale, area, taken) {
    const details = [item.score.toFixed(2)];
    if (item.role !== "unknown") details.push(item.role);
    if (item.id) details.push(`#${item.id}`);
    if (item.position) details.push(`${item.position[2].toFixed(2)} m`);
    if (item.lost > 0) details.push(`lost ${item.lost.toFixed(1)} s`);
    const size = 13;
    pen.font = `600 ${size}px system-ui, "Noto Sans CJK KR", sans-serif`;
    pen.textBaseline = "middle";
    const tail = ` ${details.join(" ")}`;
    let words = item.text;
    const fits = () => pen.measureText(words + tail).width <= area.width - 10;
    if (!fits()) {
      while (words && !fits()) words = words.slice(0, -1);
      words = `${words.slice(0, -1)}…`;
    }
    const text = words + tail;
    const width = pen.measureText(text).width + 10;
    const height = size + 7;
    const [x, y, across, down] = item.box.map((value) => value * scale);
    const hidden = (place) => taken.reduce((sum, other) => sum + common(place, other), 0);
    const places = [y - height, y + down, y, y + down - height].flatMap((top) => [x, x + across - width].map((left) => ({
      left: Math.min(Math.max(left, 0), area.width - width),
      top: Math.min(Math.max(top, 0), area.height - height),
      width, height,
    })));
    const place = places.reduce((best, next) => (hidden(next) < hidden(best) ? next : best));
    taken.push(place);
    pen.fillStyle = this.color(item);
    pen.fillRect(place.left, place.top, width, height);
    pen.fillStyle = "#101014";
    pen.fillText(text, place.left + 5, place.top + height / 2);
  }

  drawCursor(pen, area) {
    const [x, y] = [this.cursor[0] * area.width, this.cursor[1] * area.height];
    for (const [color, width] of [["#000", 5], ["#fff", 2]]) {
      pen.strokeStyle = color;
      pen.lineWidth = width;
      pen.beginPath();
      pen.moveTo(x - 10, y);
      pen.lineTo(x + 10, y);
      pen.moveTo(x, y - 10);
      pen.lineTo(x, y + 10);
      pen.stroke();
    }
  }
}

// Without what was lost where the frame shows an object of the same phrase.
function drawable(objects) {
  const present = objects.filter((item) => !item.lost);
  return [...present, ...objects.filter((item) => item.lost && !present.some((other) => other.text === item.text && iou(other.box, item.box) > 0.3))];
}

function iou(a, b) {
  const rect = ([left, top, width, height]) => ({ left, top, width, height });
  const both = common(rect(a), rect(b));
  return both / (a[2] * a[3] + b[2] * b[3] - both);
}

function common(a, b) {
  const across = Math.min(a.left + a.width, b.left + b.width) - Math.max(a.left, b.left);
  const down = Math.min(a.top + a.height, b.top + b.height) - Math.max(a.top, b.top);
  return Math.max(across, 0) * Math.max(down, 0);
}
