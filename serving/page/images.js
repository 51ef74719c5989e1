// Images from a file, from the clipboard or dropped on the page, made small enough to send.

const LONGEST_SIDE = 1024; // pixels; more would cost time and tell the model nothing
const LARGEST = 1 << 20; // bytes that are sent as they are
const PLAIN = ["image/png", "image/jpeg", "image/webp"];

function read(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

// Returns a data URL. Raises an `Error` whose message is a sentence where a file is no image that browsers read.
export async function load(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`“${file.name ?? "This file"}” is not an image that this browser can read.`);
  }
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && file.size <= LARGEST && PLAIN.includes(file.type)) return read(file);
  return drawn(bitmap, Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
}

// Returns a JPEG data URL of a bitmap or of what a video shows now.
export function drawn(source, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white"; // JPEG has no transparency
  pen.fillRect(0, 0, width, height);
  pen.drawImage(source, 0, 0, width, height);
  return canvas.toDataURL("image/jpeg", 0.92);
}

// Calls `onFile` for each file that is dropped anywhere or pasted; `zone` is shown while one hangs above the page.
export function watch(zone, onFile) {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0; // enter and leave events come for every element below the pointer
  const change = (by) => {
    depth = by === 0 ? 0 : depth + by;
    zone.hidden = depth <= 0;
  };
  window.addEventListener("dragenter", (event) => hasFiles(event) && change(1));
  window.addEventListener("dragleave", (event) => hasFiles(event) && change(-1));
  window.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  window.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    change(0);
    [...event.dataTransfer.files].forEach(onFile);
  });
  window.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) event.preventDefault();
    files.forEach(onFile);
  });
}
