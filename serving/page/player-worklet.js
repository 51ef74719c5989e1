// A queue of samples that counts what was played of each answer, and that is emptied at once.

const REPORT = 512; // samples between two reports: 21 ms
const REFILL = 2400; // samples to wait for when the queue ran dry in the middle of an answer

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.#forget();
    this.port.onmessage = ({ data }) => this[data.call](data);
  }

  #forget() {
    this.queue = []; // pieces of one answer
    this.answer = undefined;
    this.offset = 0; // in the first piece
    this.played = 0;
    this.reported = 0;
    this.peak = 0; // since the last report
    this.isComplete = false;
    this.isWaiting = false;
    this.isStopping = false;
  }

  push({ answer, samples }) {
    if (answer !== this.answer) {
      const { answer: before, played, peak } = this;
      if (before !== undefined) this.port.postMessage({ answer: before, played, peak, isOver: true });
      this.#forget();
      this.answer = answer;
    }
    this.queue.push(samples);
  }

  finish({ answer }) {
    if (answer === this.answer) this.isComplete = true;
    else this.port.postMessage({ answer, played: 0, peak: 0, isOver: true }); // an answer without a sample
  }

  stop() {
    this.isStopping = true; // at the end of the block that comes: faded, so that nothing clicks
  }

  get queued() {
    return this.queue.reduce((sum, piece) => sum + piece.length, -this.offset);
  }

  process(_, [[output]]) {
    if (this.isStopping && this.answer === undefined) {
      this.port.postMessage({ isStopped: true });
      this.isStopping = false;
    }
    if (this.answer === undefined) return true;
    if (this.isWaiting && (this.isComplete || this.queued >= REFILL)) this.isWaiting = false;
    const start = currentTime;
    const count = this.isWaiting ? 0 : this.#fill(output);
    if (this.isStopping) for (let i = 0; i < count; i++) output[i] *= 1 - i / count;
    const isFirst = count > 0 && this.played === 0;
    this.played += count;
    for (let i = 0; i < count; i++) this.peak = Math.max(this.peak, Math.abs(output[i]));
    const isOver = this.isStopping || (this.isComplete && this.queue.length === 0);
    const hasRunDry = !isOver && this.played > 0 && this.queue.length === 0 && !this.isWaiting;
    this.isWaiting ||= hasRunDry;
    if (isFirst || isOver || this.played - this.reported >= REPORT) {
      const { answer, played, peak, isStopping: isStopped } = this;
      this.port.postMessage({ answer, played, peak, isOver, isStopped, startedAt: isFirst ? start : undefined });
      [this.reported, this.peak] = [played, 0];
    }
    if (isOver) this.#forget();
    return true;
  }

  // Takes samples out of the queue until the block is full or the queue is empty.
  #fill(output) {
    let filled = 0;
    while (filled < output.length && this.queue.length > 0) {
      const piece = this.queue[0].subarray(this.offset, this.offset + output.length - filled);
      output.set(piece, filled);
      filled += piece.length;
      this.offset += piece.length;
      if (this.offset === this.queue[0].length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    return filled;
  }
}

registerProcessor("player", Player);
