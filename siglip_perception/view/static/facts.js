// The model, its contract, the notes, and the diagnostics: lists of names and values.

function pairs(list, entries) {
  list.replaceChildren(...entries.flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
}

export function showFacts(state) {
  pairs(document.getElementById("facts"), state.facts);
  document.getElementById("notes").replaceChildren(...state.notes.map((note) => {
    const item = document.createElement("li");
    item.textContent = note;
    return item;
  }));
  document.getElementById("diagnostics").replaceChildren(...state.statuses.flatMap((status) => {
    const title = document.createElement("h3");
    const list = document.createElement("dl");
    title.textContent = `${["OK", "WARN", "ERROR", "STALE"][status.level] ?? status.level}: ${status.name}: ${status.message}`;
    title.className = `level-${status.level}`;
    pairs(list, status.values);
    return [title, list];
  }));
}

export function showTimings(head) {
  const entries = Object.entries(head.timings).map(([name, value]) => [name, `${value.toFixed(1)} ms`]);
  if (head.latency !== null) entries.push(["image to answer", `${head.latency.toFixed(0)} ms`]);
  for (const note of head.notes) entries.push(["note", note]);
  pairs(document.getElementById("timings"), [["picture", `${head.width} x ${head.height}, ${head.name}`], ...entries]);
}
