// 16-bit samples as the realtime protocol has them: little-endian, one channel, 24 kHz, in base64.

export const SAMPLING_RATE = 24000;
export const SAMPLES_PER_MS = SAMPLING_RATE / 1000;

export function toInt16(samples) {
  return Int16Array.from(samples, (value) => Math.max(-32768, Math.min(32767, Math.round(value * 32768))));
}

export function encode(samples) {
  const bytes = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((value, index) => bytes.setInt16(2 * index, value, true));
  return btoa(String.fromCharCode(...new Uint8Array(bytes.buffer)));
}

export function decode(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length >> 1 }, (_, index) => view.getInt16(2 * index, true) / 32768);
}

// The largest amplitude of each stretch of `size` samples, for drawing.
export function levels(samples, size) {
  const count = Math.ceil(samples.length / size);
  return Array.from({ length: count }, (_, index) => {
    const stretch = samples.subarray(index * size, (index + 1) * size);
    return stretch.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  });
}
