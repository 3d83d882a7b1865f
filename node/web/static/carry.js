// Gathers the pictures of one file in whatever order the camera sees them, and hands them in when none is
// missing. A picture whose check does not hold counts as not seen; whether the whole is right is found where it
// is taken in. docs/spec/stick.md#pictures
"use strict";

(() => {
  const MAGIC = [83, 76, 87, 70];
  const [CHECK_AT, NAME_AT, NUMBER_AT, COUNT_AT] = [5, 9, 17, 18];
  const LABEL = new TextEncoder().encode("salween/v1/carried-frame");
  const at = (id) => document.getElementById(id);
  const files = new Map(); // what each is called and its count, to its pictures by number
  let current = "";

  const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

  // H(carried-frame, rest) begins with the check.
  const holds = async (bytes) => {
    const rest = bytes.slice(NAME_AT);
    const length = [0, 0, rest.length >> 8, rest.length & 255];
    const hashed = Uint8Array.from([LABEL.length, ...LABEL, ...length, ...rest]);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", hashed));
    return bytes.slice(CHECK_AT, NAME_AT).every((byte, place) => digest[place] === byte);
  };

  readCodes(async (bytes) => {
    at("reading").hidden = false;
    const isOurs = bytes.length > COUNT_AT && MAGIC.every((byte, place) => bytes[place] === byte);
    at("read-foreign").hidden = isOurs;
    if (!isOurs || !(await holds(bytes))) return false;
    const count = bytes[COUNT_AT];
    const file = hex([...bytes.slice(NAME_AT, NUMBER_AT), count]);
    if (current !== "" && current !== file) at("read-other").hidden = false;
    current = file;
    if (!files.has(file)) files.set(file, new Map());
    const pictures = files.get(file).set(bytes[NUMBER_AT], hex(bytes));
    at("read-bar").max = count;
    at("read-bar").value = pictures.size;
    at("read-count").textContent = pictures.size;
    at("read-of").textContent = count;
    if (pictures.size < count) return false;
    at("frames").value = [...pictures.values()].join(" ");
    at("frames-form").requestSubmit();
    return true;
  }, 60);
})();
