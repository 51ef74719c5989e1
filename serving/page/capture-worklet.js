// The microphone's samples, made one channel, brought to 24 kHz and cut into pieces of 20 ms.

import { SAMPLING_RATE, toInt16 } from "./pcm.js";
import { Resampler } from "./resampler.js";

const PIECE = SAMPLING_RATE / 50;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, SAMPLING_RATE);
    this.piece = new Float32Array(PIECE);
    this.filled = 0;
  }

  process([channels]) {
    if (channels.length === 0) return true; // the microphone is not connected yet
    const mono = channels[0].map((_, index) => {
      return channels.reduce((sum, channel) => sum + channel[index], 0) / channels.length;
    });
    for (const value of this.resampler.push(mono)) {
      this.piece[this.filled++] = value;
      if (this.filled === PIECE) this.#post();
    }
    return true;
  }

  #post() {
    const level = this.piece.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const samples = toInt16(this.piece);
    this.port.postMessage({ samples, level }, [samples.buffer]);
    this.filled = 0;
  }
}

registerProcessor("capture", Capture);
