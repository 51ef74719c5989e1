// The conversation: events of the server, of the microphone and of the loudspeaker, and what follows from each.

import { SAMPLES_PER_MS, decode, encode } from "./pcm.js";
import { AnswerTurn, UserTurn } from "./turns.js";

const PIECE_MS = 20; // of the microphone
const PADDING_MS = 150; // before speech; models that were trained on cut clips mishear what follows a longer silence
const LOUD = 0.04; // level of a piece that is speech, where nobody tells when the user ends to speak
const LONGEST_WAIT = 10000; // ms; what comes later is no answer to it
const RECENT = 50; // levels of the microphone kept: speech is noticed a moment after its first sample

export class Conversation {
  // `show(element)` puts a turn into the page, `onState(state)` and `onError(sentence)` tell what changed.
  constructor({ connection, player, show, onState, onError }) {
    Object.assign(this, { connection, player, show, onState, onError });
    this.#begin();
  }

  #begin() {
    this.answers = new Map(); // by the id of their item
    this.users = new Map();
    this.dropped = new Set(); // ids of answers that were interrupted
    this.speaking = undefined; // the user's turn that is being spoken
    this.response = undefined; // the id of the response that is being made
    this.playing = undefined; // the id of the answer that is being played
    this.isAwaiting = false; // an answer
    this.askedAt = -Infinity; // when the user's last speech or text was over
    this.sent = 0; // samples of the microphone since the connection was made
    this.recent = [];
    this.silence = 0; // ms that the server waits for before it takes speech as ended
    this.padding = 0; // ms that it adds before speech
    this.detectsTurns = true; // the server does: it says when the user begins and ends to speak
    this.canDecide = false; // the model has learned when to speak
    this.decidesTurns = false; // and does so when it likes, and listens meanwhile
  }

  get state() {
    if (this.speaking) return "hearing";
    if (this.playing || (this.response && this.decidesTurns)) return "speaking";
    return this.response || this.isAwaiting ? "thinking" : "waiting";
  }

  // The server forgets a conversation with its connection.
  restart() {
    for (const answer of this.answers.values()) if (answer.status === "speaking") answer.interrupt();
    this.player.stop();
    this.#begin();
    this.onState();
  }

  // --- from the user

  // What is typed is answered in turn, also by a model that decides by itself when it speaks to those whom it hears.
  async say(text) {
    await this.interrupt();
    if (this.decidesTurns) this.#update({ turn_detection: null });
    this.#create([{ type: "input_text", text }]);
    this.show(new UserTurn({ text }).element);
    this.#await(performance.now());
    this.connection.send({ type: "response.create" });
  }

  // The microphone is on.
  startAudio() {
    if (this.canDecide && !this.decidesTurns) this.#update({ turn_detection: { type: "model" } });
  }

  #update(input) {
    this.connection.send({ type: "session.update", session: { type: "realtime", audio: { input } } });
    this.decidesTurns = input.turn_detection?.type === "model";
    this.detectsTurns = Boolean(input.turn_detection);
  }

  showImage(url) {
    this.#create([{ type: "input_image", image_url: url }]);
    this.show(new UserTurn({ image: url }).element);
  }

  #create(content) {
    this.connection.send({ type: "conversation.item.create", item: { type: "message", role: "user", content } });
  }

  #await(since) {
    this.askedAt = since;
    this.isAwaiting = true;
    this.onState();
  }

  // A piece of the microphone.
  hear(samples, level) {
    if (!this.connection.send({ type: "input_audio_buffer.append", audio: encode(samples) })) return;
    this.sent += samples.length;
    this.sentAt = performance.now();
    if (!this.detectsTurns && !this.speaking) this.#listen();
    if (this.speaking) this.speaking.hear(level);
    if (this.decidesTurns && !this.playing && level > LOUD) this.askedAt = this.sentAt;
    this.recent = [...this.recent, level].slice(-RECENT);
  }

  // The user begins to speak.
  #listen(id) {
    this.interrupt({ isCancelled: this.detectsTurns }); // then the server has cancelled its response itself
    this.speaking = new UserTurn();
    this.users.set(id, this.speaking);
    this.show(this.speaking.element);
    this.onState();
  }

  // The microphone is off: what it heard of a turn that is not over counts as the turn.
  endAudio() {
    if (this.decidesTurns) this.interrupt(); // its time stands still until it hears again
    if (!this.speaking) return this.connection.send({ type: "input_audio_buffer.clear" });
    this.connection.send({ type: "input_audio_buffer.commit" });
    this.speaking = undefined;
    this.#await(this.sentAt);
    return this.connection.send({ type: "response.create" });
  }

  // Stops the answer that is being made or played, and tells the server how much of it was heard.
  async interrupt({ isCancelled = false } = {}) {
    const { response } = this;
    this.isAwaiting = false;
    this.response = undefined;
    if (response && !isCancelled) this.connection.send({ type: "response.cancel", response_id: response });
    const cut = [...this.answers].filter(([, answer]) => answer.status === "speaking").map(([id]) => id);
    cut.forEach((id) => this.dropped.add(id));
    const { answer: stopped, played } = await this.player.stop();
    this.playing = undefined;
    for (const id of cut) {
      const answer = this.answers.get(id);
      const heard = id === stopped ? played : answer.played;
      if (answer.isComplete && heard === answer.received) {
        answer.finish();
      } else {
        answer.interrupt();
        if (answer.received > 0) this.#truncate(id, heard);
      }
    }
    this.onState();
  }

  // The model itself has stopped: what it did not say is no part of its answer, though all that came was heard.
  #cut(response) {
    for (const { id } of response.output ?? []) if (this.answers.has(id)) this.answers.get(id).isComplete = false;
    this.interrupt({ isCancelled: true });
  }

  #truncate(id, played) {
    const end = Math.floor(played / SAMPLES_PER_MS);
    this.connection.send({ type: "conversation.item.truncate", item_id: id, content_index: 0, audio_end_ms: end });
  }

  // --- from the loudspeaker

  started(id, time) {
    this.playing = id;
    const waited = Math.max(0, time - this.askedAt);
    this.answers.get(id)?.start(waited < LONGEST_WAIT || !this.decidesTurns ? waited : undefined);
    this.onState();
  }

  played(id, played, peak, isOver) {
    const answer = this.answers.get(id);
    answer?.play(played, peak);
    if (!isOver) return;
    if (this.playing === id) this.playing = undefined;
    if (!this.dropped.has(id)) answer?.finish();
    this.onState();
  }

  // --- from the server

  receive(event) {
    this.handlers[event.type]?.call(this, event);
  }

  handlers = {
    "session.created"({ session }) {
      this.#learn(session);
      if (!this.detectsTurns || this.decidesTurns) return;
      const turns = { ...session.audio.input.turn_detection, prefix_padding_ms: PADDING_MS };
      this.#update({ turn_detection: turns });
    },
    "session.updated"({ session }) {
      this.#learn(session);
    },
    "input_audio_buffer.speech_started"({ item_id: id, audio_start_ms: start }) {
      this.#listen(id);
      this.speakingFrom = start + this.padding;
      const since = Math.round((this.sent / SAMPLES_PER_MS - this.speakingFrom) / PIECE_MS);
      if (since > 0) this.recent.slice(-since).forEach((level) => this.speaking.hear(level));
    },
    "input_audio_buffer.speech_stopped"({ audio_end_ms: end }) {
      const last = end - this.silence; // of the user's speech, in ms of what was sent
      this.speaking?.end(last - this.speakingFrom);
      this.speaking = undefined;
      this.#await(this.sentAt - (this.sent / SAMPLES_PER_MS - last));
    },
    "conversation.item.input_audio_transcription.completed"({ item_id: id, transcript }) {
      this.users.get(id)?.transcribe(transcript);
    },
    "response.created"({ response }) {
      this.response = response.id;
      this.onState();
    },
    "response.output_item.added"({ item }) {
      const answer = new AnswerTurn();
      this.answers.set(item.id, answer);
      this.show(answer.element);
    },
    "response.output_audio_transcript.delta"({ item_id: id, delta }) {
      this.answers.get(id)?.write(delta, true);
    },
    "response.output_text.delta"({ item_id: id, delta }) {
      this.answers.get(id)?.write(delta, false);
    },
    "response.output_audio.delta"({ item_id: id, delta, transcript_end: heard }) {
      if (this.dropped.has(id)) return;
      const samples = decode(delta);
      this.answers.get(id)?.receive(samples, heard);
      this.player.push(id, samples);
    },
    "response.output_audio.done"({ item_id: id }) {
      if (this.dropped.has(id)) return;
      this.answers.get(id).isComplete = true;
      this.player.finish(id);
    },
    "response.output_text.done"({ item_id: id }) {
      this.answers.get(id)?.finish();
    },
    "response.done"({ response }) {
      if (response.id === this.response) this.response = undefined;
      this.isAwaiting = false;
      if (this.decidesTurns && response.status_details?.reason === "turn_detected") this.#cut(response);
      // What an answer has become that the server itself ended is played; no more of it comes.
      const rest = response.status === "completed" ? [] : (response.output ?? []);
      rest.filter(({ id }) => !this.dropped.has(id)).forEach(({ id }) => this.player.finish(id));
      if (response.status === "failed") this.onError(response.status_details?.error?.message ?? "The answer failed.");
      this.onState();
    },
    "conversation.item.truncated"({ item_id: id, transcript }) {
      if (transcript !== undefined) this.answers.get(id)?.correct(transcript);
    },
    error({ error }) {
      if (error.code === "response_cancel_not_active") return; // it ended while the user stopped it
      this.isAwaiting = false;
      this.onError(error.message);
      this.onState();
    },
  };

  #learn(session) {
    const detection = session.audio?.input?.turn_detection;
    this.model = session.model;
    this.detectsTurns = Boolean(detection);
    this.canDecide = Boolean(session.decides_turns);
    this.decidesTurns = detection?.type === "model";
    this.silence = detection?.silence_duration_ms ?? 0;
    this.padding = detection?.prefix_padding_ms ?? 0;
    this.onState();
  }
}
