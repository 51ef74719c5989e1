// The WebSocket of the realtime protocol: events in and out as objects, reconnected for as long as the page is open.

const FIRST_WAIT = 500; // ms before the first attempt to reconnect; doubled up to
const LONGEST_WAIT = 8000;
const PROTOCOL = "realtime";
const KEY_PREFIX = "openai-insecure-api-key."; // browsers set no headers: the key travels as a subprotocol
const TOKEN = /^[\w!#$%&'*+.^`|~-]+$/; // what a subprotocol may be made of

export class Connection extends EventTarget {
  // Events: "open"; "message" with the server's event; "lost" with a sentence; "key" with a sentence where a key was
  // wrong, and with null where none was given.
  constructor(url) {
    super();
    this.url = new URL(url);
    this.wait = FIRST_WAIT;
  }

  set key(key) {
    this.secret = key || undefined;
  }

  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  open() {
    clearTimeout(this.timer);
    if (this.secret && !TOKEN.test(this.secret)) {
      return this.#tell("key", "An API key has no spaces, brackets or quotation marks.");
    }
    const address = new URL(this.url);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address, this.secret ? [PROTOCOL, KEY_PREFIX + this.secret] : [PROTOCOL]);
    this.socket = socket;
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    socket.onclose = (event) => socket === this.socket && this.#explain(event);
  }

  send(event) {
    if (this.isOpen) this.socket.send(JSON.stringify(event));
    return this.isOpen;
  }

  close() {
    clearTimeout(this.timer);
    this.wasOpen = false;
    const { socket } = this;
    this.socket = undefined;
    socket?.close();
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  // A server that is full opens the socket, says so and closes it: a conversation begins with its session.
  #take(event) {
    if (event.type === "session.created") {
      this.wait = FIRST_WAIT;
      this.wasOpen = true;
      this.#tell("open");
    }
    if (this.wasOpen) this.#tell("message", event);
  }

  // A refused handshake looks to a page like a server that is not there, so a plain request asks why.
  async #explain({ reason }) {
    const { wasOpen } = this;
    this.wasOpen = false;
    const { status, message } = wasOpen || reason ? {} : await this.#ask();
    if (status === 401) return this.#tell("key", this.secret ? "The server does not take this API key." : null);
    const isBusy = status === 200 || status === 503; // it answers, and yet begins no conversation
    const sentence = isBusy ? "The server is busy with others." : reason || message || "The server does not answer.";
    this.#tell("lost", `${sentence} This page tries again.`);
    this.timer = setTimeout(() => this.open(), this.wait * (0.8 + 0.4 * Math.random()));
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
  }

  async #ask() {
    const headers = this.secret ? { Authorization: `Bearer ${this.secret}` } : {};
    try {
      const answer = await fetch(new URL("models", this.url), { headers, cache: "no-store" });
      const body = answer.ok ? {} : await answer.json();
      return { status: answer.status, message: body.error?.message };
    } catch {
      return {}; // nobody there, or nobody who speaks this protocol
    }
  }
}
