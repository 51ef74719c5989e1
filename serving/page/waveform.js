// Levels of a signal drawn as bars on a canvas, in the colours of the style sheet.

const BAR = 3; // CSS pixels
const GAP = 2;

// The levels of many short stretches as those of fewer longer ones.
export function pool(levels, count) {
  if (levels.length <= count) return levels;
  return Array.from({ length: count }, (_, index) => {
    const [from, to] = [index, index + 1].map((edge) => Math.floor((edge * levels.length) / count));
    return Math.max(...levels.slice(from, to));
  });
}

// Draws levels from 0 to 1; `heard` is the part of them, from the left, in the full colour.
export function draw(canvas, levels, { heard = 1, alignRight = false } = {}) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (width === 0) return;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const start = alignRight ? width - levels.length * (BAR + GAP) + GAP : 0;
  levels.forEach((level, index) => {
    const size = Math.max(BAR, Math.sqrt(Math.min(1, level)) * height); // the ear's scale is not the amplitude's
    pen.fillStyle = style.getPropertyValue(index < heard * levels.length ? "--wave" : "--wave-rest");
    pen.beginPath();
    pen.roundRect(start + index * (BAR + GAP), (height - size) / 2, BAR, size, BAR / 2);
    pen.fill();
  });
}

export function barsIn(canvas) {
  return Math.floor((canvas.clientWidth + GAP) / (BAR + GAP));
}

export function widthOf(bars) {
  return bars * (BAR + GAP) - GAP;
}

// A waveform that runs from right to left while its source is on.
export class LiveWaveform {
  constructor(canvas) {
    this.canvas = canvas;
    this.levels = [];
    this.isStill = window.matchMedia("(prefers-reduced-motion: reduce)");
    new ResizeObserver(() => this.#schedule()).observe(canvas);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#schedule());
  }

  push(level) {
    this.levels.push(level);
    const bars = barsIn(this.canvas);
    if (this.levels.length > 2 * bars) this.levels = this.levels.slice(-bars);
    this.#schedule();
  }

  clear() {
    this.levels = [];
    this.#schedule();
  }

  #schedule() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      const bars = barsIn(this.canvas);
      const last = this.levels.slice(-bars);
      const silence = Array(Math.max(0, bars - last.length)).fill(0);
      // Without motion: a meter that fills from the left, by the loudest of the last tenth of a second.
      if (this.isStill.matches) draw(this.canvas, Array(bars).fill(0.1), { heard: Math.max(0, ...last.slice(-5)) });
      else draw(this.canvas, [...silence, ...last], { heard: last.length ? 1 : 0, alignRight: true });
    });
  }
}
