// Turns of the conversation as elements of the page: what was said, its waveform, and what is worth knowing of it.

import { SAMPLING_RATE, levels } from "./pcm.js";
import { draw, pool, barsIn, widthOf } from "./waveform.js";

const LEVEL_SIZE = SAMPLING_RATE / 50; // samples a level stands for: 20 ms
const BARS_PER_SECOND = 16;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function inSeconds(milliseconds) {
  return `${(milliseconds / 1000).toFixed(milliseconds < 9995 ? 2 : 1)} s`;
}

class Turn {
  constructor(who, label) {
    this.text = element("p", { className: "text" });
    this.strip = element("canvas", { className: "strip", hidden: true });
    this.strip.setAttribute("aria-hidden", "true");
    this.meta = element("p", { className: "meta" });
    const said = element("div", { className: "said" }, this.text, this.strip, this.meta);
    this.element = element("li", { className: `turn ${who}` }, element("h3", { className: "who" }, label), said);
    this.levels = [];
    new ResizeObserver(() => this.redraw()).observe(this.strip);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  // The part of the waveform that was heard.
  get heardPart() {
    return 1;
  }

  redraw() {
    this.strip.hidden = this.levels.length === 0;
    if (this.strip.hidden) return;
    const bars = Math.max(4, Math.round((this.levels.length / 50) * BARS_PER_SECOND));
    this.strip.style.width = `${widthOf(bars)}px`; // the style sheet keeps it inside its column
    draw(this.strip, pool(this.levels, Math.min(bars, barsIn(this.strip))), { heard: this.heardPart });
  }
}

export class UserTurn extends Turn {
  constructor({ text, image } = {}) {
    super("user", "You");
    if (text) this.text.textContent = text;
    if (image) this.text.before(element("img", { src: image, alt: "The image you showed" }));
    this.text.hidden = !text;
  }

  hear(level) {
    this.levels.push(level);
    this.redraw();
    this.#describe();
  }

  #describe() {
    this.meta.textContent = `${(this.levels.length / 50).toFixed(1)} s spoken`;
  }

  // The turn is over: what came after its last sample was silence.
  end(milliseconds) {
    this.levels.length = Math.min(this.levels.length, Math.max(1, Math.round(milliseconds / 20)));
    this.redraw();
    this.#describe();
  }

  // Text of what was said aloud, where the model writes it down.
  transcribe(text) {
    this.text.textContent = text;
    this.text.hidden = !text;
  }
}

export class AnswerTurn extends Turn {
  constructor() {
    super("answer", "JOSIE");
    this.heard = element("span");
    this.coming = element("span", { className: "coming" });
    this.text.append(this.heard, this.coming);
    this.pieces = []; // of text, each with the sample at which it begins to be spoken
    this.marks = []; // letters that have been heard after so many samples
    this.kept = undefined; // what was heard of an interrupted answer, as the server knows it
    this.received = 0;
    this.played = 0;
    this.peak = 0;
    this.status = "speaking";
    this.isComplete = false; // all of its samples are here
    this.isSpoken = true;
  }

  set status(status) {
    this.element.dataset.status = status;
  }

  get status() {
    return this.element.dataset.status;
  }

  get heardPart() {
    return this.status === "finished" ? 1 : this.played / Math.max(1, this.received);
  }

  // Text comes before its sound, if it has one.
  write(text, isSpoken) {
    this.isSpoken = isSpoken;
    const words = text.match(/\s*\S+|\s+$/g) ?? [];
    this.pieces.push(...words.map((word) => ({ text: word, at: this.received })));
    this.#show();
  }

  // Samples, and how many letters will have been heard after them, where the server knows.
  receive(samples, heard) {
    this.received += samples.length;
    if (heard !== undefined) this.marks.push({ end: this.received, heard });
    this.levels.push(...levels(samples, LEVEL_SIZE));
    this.#show();
  }

  play(played, peak) {
    this.played = played;
    this.peak = Math.max(this.peak, peak);
    this.#show();
  }

  start(latency) {
    this.latency = latency;
    this.#describe();
  }

  // The answer has been said to its end.
  finish() {
    if (this.status === "speaking") this.status = "finished";
    this.#show();
  }

  // The answer was cut off: what of it was heard stays, and the rest is struck out.
  interrupt() {
    this.status = "interrupted";
    this.#show();
  }

  // The heard text as the server knows it, from the durations of the tokens.
  correct(heard) {
    if (this.#written.startsWith(heard)) this.kept = heard;
    this.#show();
  }

  get #written() {
    return this.pieces.map((piece) => piece.text).join("");
  }

  // The text whose sound has begun: by the server's marks, or else each word no sooner than its text came, and by its
  // part of the whole.
  get #begun() {
    if (this.kept !== undefined) return this.kept;
    if (this.played === 0) return "";
    const mark = this.marks.find(({ end }) => end >= this.played);
    if (mark) return this.#written.slice(0, mark.heard);
    const { length } = this.#written;
    let [text, before] = ["", 0];
    for (const piece of this.pieces) {
      if (Math.max(piece.at, (before / length) * this.received) >= this.played) break;
      text += piece.text;
      before += piece.text.length;
    }
    return text;
  }

  #show() {
    const isWhole = this.status === "finished" || !this.isSpoken;
    const heard = isWhole ? this.#written : this.#begun;
    const rest = this.#written.slice(heard.length);
    const words = rest.trimStart(); // a space is not struck out
    this.heard.textContent = heard + rest.slice(0, rest.length - words.length);
    if (this.status === "interrupted" && this.coming.localName !== "s") {
      const struck = element("s", { className: "unheard", title: "Not heard" });
      this.coming.replaceWith(struck);
      this.coming = struck;
    }
    this.coming.textContent = words;
    if (words && this.status === "interrupted") {
      this.coming.prepend(element("span", { className: "hidden" }, "Not heard: "));
    }
    Object.assign(this.element.dataset, { playedSamples: this.played, peak: this.peak.toFixed(3) });
    this.redraw();
    this.#describe();
  }

  #describe() {
    const whole = this.received / SAMPLING_RATE;
    const heard = this.played / SAMPLING_RATE;
    const known = [];
    if (this.latency !== undefined) known.push(`first sound after ${inSeconds(this.latency)}`);
    if (this.status === "interrupted") known.push(`interrupted: ${heard.toFixed(1)} of ${whole.toFixed(1)} s heard`);
    else if (this.received > 0) known.push(`${(this.status === "finished" ? whole : heard).toFixed(1)} s`);
    this.meta.textContent = known.join(" · ");
    if (this.latency !== undefined) this.element.dataset.latencyMs = Math.round(this.latency);
  }
}

export function note(text) {
  return element("li", { className: "note" }, text);
}
