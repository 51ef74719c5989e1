// The microphone: pieces of 20 ms at 24 kHz, from `start()` to `stop()`.

// The loudspeaker plays into the microphone while JOSIE speaks; what is left of it must not interrupt. Rooms are
// noisier than what models were trained on. Automatic gain is off: it drives clear voices until they clip.
const CONSTRAINTS = {
  audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: false },
};

export class Microphone {
  constructor(onPiece) {
    this.onPiece = onPiece;
  }

  get isOn() {
    return Boolean(this.stream);
  }

  // Raises the browser's error where there is no microphone, or none that this page may use.
  async start() {
    if (!navigator.mediaDevices) throw new DOMException("The page was not loaded securely.", "SecurityError");
    const stream = await navigator.mediaDevices.getUserMedia(CONSTRAINTS);
    // In the device's own rate: some browsers refuse to connect a microphone to a context of another one.
    const context = new AudioContext({ latencyHint: "interactive" });
    await context.audioWorklet.addModule(new URL("capture-worklet.js", import.meta.url));
    const node = new AudioWorkletNode(context, "capture");
    node.port.onmessage = ({ data }) => this.stream === stream && this.onPiece(data.samples, data.level);
    context.createMediaStreamSource(stream).connect(node);
    node.connect(context.destination); // silence: a node that leads nowhere need not be run
    [this.stream, this.context] = [stream, context];
    stream.getAudioTracks()[0].addEventListener("ended", () => this.onEnded?.()); // unplugged, or taken back
  }

  async stop() {
    const { stream, context } = this;
    this.stream = this.context = undefined;
    stream?.getTracks().forEach((track) => track.stop());
    await context?.close();
  }
}

export function explain(error) {
  const sentences = {
    NotAllowedError: "This page may not use the microphone. Allow it beside the address, then press the button again.",
    NotFoundError: "No microphone was found. You can type instead.",
    NotReadableError: "Another program holds the microphone. Close it, then press the button again.",
    SecurityError: "Browsers give the microphone only to pages from https or from localhost. You can type instead.",
  };
  return sentences[error.name] ?? `The microphone does not start: ${error.message}`;
}
