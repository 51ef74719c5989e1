// The loudspeaker: plays answers, says how many of their samples were played, and stops at once.

import { SAMPLING_RATE } from "./pcm.js";

export class Player {
  // `onPlayed(answer, played, peak, isOver)` is called some fifty times a second, `onStarted(answer, time)` once an
  // answer, with the time at which its first sample leaves the loudspeaker, on the clock of `performance`.
  constructor({ onPlayed, onStarted }) {
    Object.assign(this, { onPlayed, onStarted });
    this.stopped = []; // who waits for the next stop
  }

  // To be called from a gesture of the user: browsers let no page make noise before one.
  async start() {
    if (!this.context) {
      this.context = new AudioContext({ sampleRate: SAMPLING_RATE, latencyHint: "interactive" });
      this.node = this.#load();
    }
    await Promise.all([this.context.resume(), this.node]);
  }

  async #load() {
    await this.context.audioWorklet.addModule(new URL("player-worklet.js", import.meta.url));
    const node = new AudioWorkletNode(this.context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    node.port.onmessage = ({ data }) => this.#report(data);
    node.connect(this.context.destination);
    this.port = node.port;
    return node;
  }

  #report({ answer, played, peak, isOver, isStopped, startedAt }) {
    if (startedAt !== undefined) this.onStarted(answer, this.#audibleAt(startedAt));
    if (answer !== undefined) this.onPlayed(answer, played, peak, isOver);
    if (isStopped) this.stopped.splice(0).forEach((resolve) => resolve({ answer, played }));
  }

  #audibleAt(contextTime) {
    const { contextTime: then, performanceTime } = this.context.getOutputTimestamp();
    if (performanceTime > 0) return performanceTime + 1000 * (contextTime - then);
    const latency = this.context.outputLatency || this.context.baseLatency || 0; // no clock before the first sample
    return performance.now() + 1000 * (contextTime - this.context.currentTime + latency);
  }

  push(answer, samples) {
    this.port.postMessage({ call: "push", answer, samples }, [samples.buffer]);
  }

  finish(answer) {
    this.port.postMessage({ call: "finish", answer });
  }

  // Empties the queue; resolves to the answer that was being played, if any, and its number of played samples.
  stop() {
    if (this.context?.state !== "running" || !this.port) return Promise.resolve({ answer: undefined, played: 0 });
    return new Promise((resolve) => {
      this.stopped.push(resolve);
      this.port.postMessage({ call: "stop" });
    });
  }
}
