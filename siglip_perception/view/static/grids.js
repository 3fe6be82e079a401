// Pictures of a grid of patches: levels as colors, and colors as they are.

// Viridis, in nine steps: even in brightness, and clear to color-blind eyes.
const STOPS = [
  [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141],
  [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37],
];
export const LEVELS = Array.from({ length: 256 }, (_, level) => {
  const at = (level / 255) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[low].map((value, i) => Math.round(value + (STOPS[low + 1][i] - value) * (at - low)));
});

// A canvas of cols x rows pixels; color: patch -> [red, green, blue].
export function gridCanvas(rows, cols, color, canvas = document.createElement("canvas")) {
  canvas.width = cols;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(cols, rows);
  for (let patch = 0; patch < rows * cols; patch += 1) {
    pixels.data.set([...color(patch), 255], 4 * patch);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

export function levelCanvas(blob, start, canvas) {
  return gridCanvas(blob.rows, blob.cols, (patch) => LEVELS[blob.data[start + patch]], canvas);
}

export function colorCanvas(blob, canvas) {
  return gridCanvas(
    blob.rows, blob.cols, (patch) => Array.from(blob.data.subarray(3 * patch, 3 * patch + 3)), canvas,
  );
}
