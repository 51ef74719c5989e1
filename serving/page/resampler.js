// A resampler between two whole rates that takes a signal piece by piece: a polyphase filter of windowed sincs.
//
// Its output does not depend on how the signal is cut. It keeps the lower 88 % of the narrower band as they are (errors
// are 70 dB down), and nothing beyond that band (75 dB down). It waits for `reach` input samples: 2 ms at 48 kHz.

const CROSSINGS = 48; // zero crossings of the sinc on each side
const ROLLOFF = 0.94; // where the filter has fallen by half, as a part of the lower Nyquist frequency
const BETA = 9; // of the Kaiser window: 80 dB and more

function divisor(a, b) {
  return b === 0 ? a : divisor(b, a % b);
}

function bessel(x) {
  let [sum, term] = [1, 1];
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

export class Resampler {
  constructor(from, to) {
    const common = divisor(from, to);
    this.step = from / common; // input samples for every `phases` output samples
    this.phases = to / common;
    const cutoff = ROLLOFF * Math.min(1, to / from);
    this.reach = Math.ceil(CROSSINGS / Math.min(1, to / from));
    this.filters = Array.from({ length: this.phases }, (_, phase) => this.#filter(phase / this.phases, cutoff));
    this.kept = new Float32Array(this.reach - 1); // silence before the first sample
    this.phase = 0;
    this.position = this.reach - 1; // of the next output sample in what is kept
  }

  #filter(shift, cutoff) {
    const taps = Float64Array.from({ length: 2 * this.reach }, (_, index) => {
      const x = index - this.reach + 1 - shift;
      const inside = Math.max(0, 1 - (x / this.reach) ** 2);
      return cutoff * sinc(cutoff * x) * bessel(BETA * Math.sqrt(inside));
    });
    const sum = taps.reduce((total, tap) => total + tap, 0); // one for silence and for a constant: no ripple at 0 Hz
    return taps.map((tap) => tap / sum);
  }

  push(samples) {
    const input = new Float32Array(this.kept.length + samples.length);
    input.set(this.kept);
    input.set(samples, this.kept.length);
    const output = [];
    while (this.position + this.reach < input.length) {
      const first = this.position - this.reach + 1;
      const filter = this.filters[this.phase];
      let sum = 0;
      for (let tap = 0; tap < filter.length; tap++) sum += filter[tap] * input[first + tap];
      output.push(sum);
      this.phase += this.step;
      this.position += Math.floor(this.phase / this.phases);
      this.phase %= this.phases;
    }
    const used = Math.min(this.position - this.reach + 1, input.length);
    this.kept = input.slice(used);
    this.position -= used;
    return Float32Array.from(output);
  }
}
