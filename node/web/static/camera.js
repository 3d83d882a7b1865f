// The camera of pages that read codes: looks for a code in its picture again and again. Nothing is kept.
"use strict";

// Calls `found` with the bytes of each code until it answers true, or a promise of it; the page brings the places
// by their ids.
const readCodes = (found, pauseMs) => {
  const place = document.getElementById("camera");
  if (place === null || navigator.mediaDevices === undefined) return;
  const button = document.getElementById("camera-button");
  const view = document.getElementById("camera-view");
  const fault = document.getElementById("camera-fault");
  const canvas = document.createElement("canvas");
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  let stream = null;

  const stop = () => {
    if (stream !== null) for (const track of stream.getTracks()) track.stop();
    stream = null;
    view.srcObject = null;
    view.hidden = true;
    button.disabled = false;
  };

  const look = async () => {
    if (stream === null) return;
    if (view.videoWidth > 0) {
      [canvas.width, canvas.height] = [view.videoWidth, view.videoHeight];
      pen.drawImage(view, 0, 0);
      const picture = pen.getImageData(0, 0, canvas.width, canvas.height);
      // Our pictures are dark on light whatever the scheme; looking for the other kind takes as long again.
      const code = jsQR(picture.data, picture.width, picture.height, { inversionAttempts: "dontInvert" });
      if (code !== null && (await found(code.binaryData))) {
        stop();
        return;
      }
    }
    setTimeout(look, pauseMs);
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
};
