// A still from the camera, taken in a dialog that shows what the camera sees.

import { drawn } from "./images.js";

const LONGEST_SIDE = 1024;

export class Camera {
  constructor(dialog, onStill) {
    this.dialog = dialog;
    this.video = dialog.querySelector("video");
    dialog.addEventListener("close", () => {
      const isTaken = dialog.returnValue === "take" && this.video.videoWidth > 0;
      if (isTaken) onStill(this.#take());
      this.#release();
    });
  }

  // Raises the browser's error where there is no camera, or none that this page may use.
  async open() {
    if (!navigator.mediaDevices) throw new DOMException("The page was not loaded securely.", "SecurityError");
    this.video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    this.dialog.returnValue = "";
    this.dialog.showModal();
    await this.video.play();
  }

  #take() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
    return drawn(this.video, Math.round(width * scale), Math.round(height * scale));
  }

  #release() {
    this.video.srcObject?.getTracks().forEach((track) => track.stop());
    this.video.srcObject = null;
  }
}

export function explain(error) {
  const sentences = {
    NotAllowedError: "This page may not use the camera. Allow it beside the address, then try again.",
    NotFoundError: "No camera was found. You can choose an image file instead.",
    NotReadableError: "Another program holds the camera. Close it, then try again.",
    SecurityError: "Browsers give the camera only to pages from https or from localhost.",
  };
  return sentences[error.name] ?? `The camera does not start: ${error.message}`;
}
