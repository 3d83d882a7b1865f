// Reads the other office's code with the camera. Without this file the code is pasted; nothing is kept.
"use strict";

(() => {
  const LETTERS = "abcdefghijklmnopqrstuvwxyz234567";
  const PREFIX = "salween-meet1-";
  const MAGIC = [83, 76, 87, 77];
  const PAUSE_MS = 200;
  const place = document.getElementById("camera");
  const text = document.getElementById("f-text");
  if (place === null || text === null || navigator.mediaDevices === undefined) return;

  const button = document.getElementById("camera-button");
  const view = document.getElementById("camera-view");
  const fault = document.getElementById("camera-fault");
  const canvas = document.createElement("canvas");
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  let stream = null;

  // The picture holds bytes; the field takes the same line that could be pasted.
  const lineOf = (bytes) => {
    let [line, held, bits] = [PREFIX, 0, 0];
    for (const byte of bytes) {
      held = (held << 8) | byte;
      bits += 8;
      while (bits >= 5) {
        bits -= 5;
        line += LETTERS[(held >> bits) & 31];
      }
      held &= (1 << bits) - 1;
    }
    return bits > 0 ? line + LETTERS[(held << (5 - bits)) & 31] : line;
  };

  const stop = () => {
    if (stream !== null) for (const track of stream.getTracks()) track.stop();
    stream = null;
    view.srcObject = null;
    view.hidden = true;
    button.disabled = false;
  };

  const look = () => {
    if (stream === null) return;
    if (view.videoWidth > 0) {
      [canvas.width, canvas.height] = [view.videoWidth, view.videoHeight];
      pen.drawImage(view, 0, 0);
      const picture = pen.getImageData(0, 0, canvas.width, canvas.height);
      const found = jsQR(picture.data, picture.width, picture.height);
      if (found !== null && MAGIC.every((byte, at) => found.binaryData[at] === byte)) {
        text.value = lineOf(found.binaryData);
        stop();
        document.querySelector("#reading button.main").focus();
        return;
      }
    }
    setTimeout(look, PAUSE_MS);
  };

  button.addEventListener("click", async () => {
    button.disabled = true;
    fault.hidden = true;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } },
      });
      view.srcObject = stream;
      view.hidden = false;
      await view.play();
      look();
    } catch {
      stop();
      fault.hidden = false;
    }
  });
  window.addEventListener("pagehide", stop);
  place.hidden = false;
})();
