// The page: its elements, and who is told what when one of them is used.

import { Camera, explain as explainCamera } from "./camera.js";
import { Connection } from "./connection.js";
import { Conversation } from "./conversation.js";
import { load, watch } from "./images.js";
import { Microphone, explain as explainMicrophone } from "./microphone.js";
import { Player } from "./player.js";
import { note } from "./turns.js";
import { LiveWaveform } from "./waveform.js";

const KEY = "josie-api-key";
const STATES = {
  connecting: "Connecting …",
  key: "Waiting for the API key",
  error: "Not connected",
  ready: "Ready",
  listening: "Listening",
  hearing: "Hearing you",
  thinking: "Thinking",
  speaking: "Speaking",
};

const find = (id) => document.getElementById(id);
const scroller = find("conversation");
const waves = { user: new LiveWaveform(find("user-wave")), answer: new LiveWaveform(find("answer-wave")) };
const connection = new Connection(new URL("v1/realtime", document.baseURI));
let trouble = "connecting"; // why there is no conversation: "connecting", "key", "error", or nothing

const player = new Player({
  onStarted: (answer, time) => conversation.started(answer, time),
  onPlayed(answer, played, peak, isOver) {
    waves.answer.push(peak);
    conversation.played(answer, played, peak, isOver);
    follow();
  },
});
const microphone = new Microphone((samples, level) => {
  waves.user.push(level);
  conversation.hear(samples, level);
});
const conversation = new Conversation({ connection, player, show, onState: showState, onError: complain });

// --- what is seen

let isFollowing = true; // the last line, unless the reader has scrolled up
scroller.addEventListener("scroll", () => {
  isFollowing = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
});

function follow() {
  if (isFollowing) scroller.scrollTop = scroller.scrollHeight;
}

function show(element) {
  find("welcome").hidden = true;
  find("turns").append(element);
  isFollowing = true;
  new ResizeObserver(follow).observe(element); // turns grow while they are said
  showState();
}

function showState() {
  let state = trouble || conversation.state;
  if (state === "waiting") state = microphone.isOn ? "listening" : "ready";
  if (document.body.dataset.state !== state) find("state").textContent = STATES[state];
  document.body.dataset.state = state;
  find("model").textContent = conversation.model ?? "";
  find("afresh").hidden = Boolean(trouble) || find("turns").childElementCount === 0;
  find("stop").hidden = !["thinking", "speaking"].includes(state);
  find("microphone").setAttribute("aria-pressed", String(microphone.isOn));
  for (const id of ["microphone", "camera", "file", "message", "send"]) find(id).disabled = Boolean(trouble);
  const listens = conversation.canDecide && microphone.isOn; // such a model is spoken to then
  if (listens) find("message").disabled = find("send").disabled = true;
  find("message").placeholder = listens ? "Talk, or turn the microphone off to write" : "Write a message";
  if (state !== "speaking") waves.answer.clear();
}

function complain(sentence = "") {
  const words = find("notice").firstElementChild;
  find("notice").hidden = !sentence;
  if (words.textContent !== sentence) words.textContent = sentence ?? ""; // read out once, not at every attempt
}

// --- the connection

let hasForgotten = false; // what stands on the page

function fail(why, sentence) {
  if (!trouble) {
    conversation.restart();
    hasForgotten = find("turns").childElementCount > 0;
  }
  trouble = why;
  microphone.stop();
  waves.user.clear();
  complain(sentence ?? undefined);
  showState();
}

connection.addEventListener("open", () => {
  trouble = undefined;
  find("key-form").hidden = true;
  complain();
  if (hasForgotten) show(note("The connection is new: JOSIE remembers nothing from above."));
  hasForgotten = false;
  showState();
  if (document.activeElement === document.body) find("microphone").focus();
});
connection.addEventListener("message", ({ detail }) => conversation.receive(detail));
connection.addEventListener("lost", ({ detail }) => fail("error", detail));
connection.addEventListener("key", ({ detail }) => {
  fail("key", detail);
  sessionStorage.removeItem(KEY);
  find("key-form").hidden = false;
  find("welcome").hidden = true;
  find("key").select(); // and focus: a wrong key is overwritten
});

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = find("key").value.trim();
  sessionStorage.setItem(KEY, key);
  connection.key = key;
  trouble = "connecting";
  complain();
  showState();
  connection.open();
});

find("afresh").addEventListener("click", () => {
  conversation.restart();
  find("turns").replaceChildren();
  find("welcome").hidden = false;
  find("microphone").focus();
  trouble = "connecting";
  complain();
  showState();
  connection.close();
  connection.open();
});

// --- to speak, to write, to show

find("microphone").addEventListener("click", async () => {
  complain();
  try {
    await player.start();
    if (microphone.isOn) {
      await microphone.stop();
      conversation.endAudio();
      waves.user.clear();
    } else {
      conversation.startAudio();
      await microphone.start();
    }
  } catch (error) {
    complain(explainMicrophone(error));
  }
  showState();
});

microphone.onEnded = async () => {
  await microphone.stop();
  conversation.endAudio();
  complain("The microphone was taken away. Press the button to use another one.");
  showState();
};

find("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = find("message").value.trim();
  if (!text || trouble) return;
  find("message").value = "";
  complain();
  await player.start();
  await conversation.say(text);
});

function stop() {
  if (!find("stop").hidden) conversation.interrupt();
}

find("stop").addEventListener("click", () => {
  stop();
  find("microphone").focus(); // the button goes, and the keyboard's place with it
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !find("camera-dialog").open) stop();
});

async function showFile(file) {
  if (trouble) return;
  complain();
  try {
    conversation.showImage(await load(file));
  } catch (error) {
    complain(error.message);
  }
}

find("file").addEventListener("change", ({ target }) => {
  [...target.files].forEach(showFile);
  target.value = ""; // the same file can be chosen again
});
watch(find("drop"), showFile);

const camera = new Camera(find("camera-dialog"), (still) => conversation.showImage(still));
find("camera").addEventListener("click", () => {
  complain();
  camera.open().catch((error) => complain(explainCamera(error)));
});
find("notice").querySelector("button").addEventListener("click", () => complain());

connection.key = sessionStorage.getItem(KEY);
connection.open();
