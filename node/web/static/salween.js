// What pages do beyond plain HTML: show changes as they happen, single keys, and guard what is being typed.
// Every page works without this file. It stores one thing, whether single keys are wanted; nothing an officer
// types or reads is ever written to the browser's storage or history.
"use strict";

(() => {
  const SINGLE_KEYS = "salween-single-keys";
  const form = document.querySelector("form[data-keep]");
  let isLeaving = false;

  // --- what is being typed ---

  const isTyped = () =>
    form !== null &&
    [...form.elements].some((field) =>
      field.matches("textarea, input:not([type=hidden], [type=radio], [type=checkbox])")
        ? field.value !== field.defaultValue
        : field.matches("input[type=radio], input[type=checkbox]") && field.checked !== field.defaultChecked,
    );

  // The page itself may come back from the server with what was typed; then leaving it loses something too.
  const wasTyped =
    form !== null &&
    [...form.querySelectorAll("textarea, input:not([type=hidden], [type=radio], [type=checkbox])")].some(
      (field) => field.defaultValue !== "",
    );

  window.addEventListener("beforeunload", (event) => {
    if (!isLeaving && (isTyped() || wasTyped)) event.preventDefault();
  });
  document.addEventListener("submit", (event) => {
    isLeaving = true;
    // A page that stays, because what came back was a file to save, must not keep the PIN.
    setTimeout(() => event.target.querySelectorAll("input[type=password]").forEach((pin) => (pin.value = "")), 0);
    const button = event.submitter;
    if (button !== null && button.hasAttribute("data-once")) {
      // Disabled after the event, or the button's own name and value would not be sent.
      setTimeout(() => {
        button.disabled = true;
        button.setAttribute("aria-disabled", "true");
      }, 0);
    }
  });
  // A page that comes back from the browser's memory after a logout must not be readable again.
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });

  // --- single keys ---

  const wantsKeys = () => {
    try {
      return localStorage.getItem(SINGLE_KEYS) !== "off";
    } catch {
      return true;
    }
  };
  const step = (by) => {
    const links = [...document.querySelectorAll(".list .go")];
    if (links.length === 0) return;
    const at = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
    const next = at === -1 ? (by > 0 ? 0 : links.length - 1) : at + by;
    links[Math.max(0, Math.min(links.length - 1, next))].focus();
  };
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input, textarea, select, [contenteditable]") !== null;
    if (isTyping || event.ctrlKey || event.altKey || event.metaKey || event.isComposing || !wantsKeys()) return;
    if (document.body.dataset.session !== "yes") return;
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "?") location.assign("/help");
    else return;
    event.preventDefault();
  });
  const keysSwitch = document.getElementById("keys-switch");
  if (keysSwitch !== null) {
    const box = keysSwitch.querySelector("input");
    box.checked = wantsKeys();
    box.addEventListener("change", () => localStorage.setItem(SINGLE_KEYS, box.checked ? "on" : "off"));
    keysSwitch.hidden = false;
  }
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.languages[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });

  // --- changes from the server ---

  if (document.body.dataset.session !== "yes") return;

  const live = document.getElementById("live");
  const announce = document.getElementById("announce");

  // The server's own page, parsed as a document that runs no script (Trusted Types forbid parsing strings).
  const fetchPage = (address) =>
    new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("GET", address);
      request.responseType = "document";
      request.setRequestHeader("X-Salween-Passive", "1");
      request.onload = () =>
        request.status === 200 && request.response !== null && request.response.body.dataset.session === "yes"
          ? resolve(request.response)
          : reject(new Error(String(request.status)));
      request.onerror = reject;
      request.send();
    });

  const replaceWhole = (id, page) => {
    const [old, fresh] = [document.getElementById(id), page.getElementById(id)];
    if (old === null || fresh === null || old.isEqualNode(fresh) || old.contains(document.activeElement)) return;
    old.replaceChildren(...document.importNode(fresh, true).childNodes);
  };

  // Row by row, so that the row with the focus keeps it and a reader's place does not jump.
  const mergeRows = (body, fresh) => {
    const old = new Map([...body.rows].map((row) => [row.dataset.key, row]));
    const wanted = [...document.importNode(fresh, true).rows].map((row) => {
      const mine = old.get(row.dataset.key);
      old.delete(row.dataset.key);
      if (mine === undefined) {
        row.classList.add("arrived");
        return row;
      }
      if (mine.contains(document.activeElement)) return mine;
      mine.classList.remove("arrived");
      return mine.isEqualNode(row) ? mine : row;
    });
    const focused = wanted.find((row) => row.contains(document.activeElement));
    for (const row of [...body.rows]) if (row !== focused && !old.has(row.dataset.key)) row.remove();
    for (const row of old.values()) if (!row.contains(document.activeElement)) row.remove();
    // The focused row is never taken out of the document: moving it would drop the focus.
    const before = focused === undefined ? [] : wanted.slice(0, wanted.indexOf(focused));
    const after = focused === undefined ? wanted : wanted.slice(wanted.indexOf(focused) + 1);
    if (focused !== undefined) focused.before(...before);
    body.append(...after);
  };

  const refresh = async () => {
    // A page that costs a log entry to open, or holds a form, only renews its frame.
    const page = await fetchPage(live === null ? "/status" : location.pathname + location.search);
    replaceWhole("banners", page);
    for (const [link, fresh] of pairs("#menu a", page)) {
      const [count, now] = [link.querySelector(".count"), fresh.querySelector(".count")];
      if ((count && count.textContent) === (now && now.textContent)) continue;
      if (count !== null) count.remove();
      if (now !== null) link.append(document.importNode(now, true));
    }
    if (live === null) return;
    const [said, now] = [document.querySelector("[data-announce]"), page.querySelector("[data-announce]")];
    if (said !== null && now !== null && said.textContent !== now.textContent) {
      said.textContent = now.textContent;
      announce.textContent = now.textContent;
    }
    const [body, fresh] = [live.querySelector("tbody"), page.querySelector("#live tbody")];
    if (body !== null && fresh !== null) mergeRows(body, fresh);
    else replaceWhole("live", page);
  };
  const pairs = (selector, page) => {
    const fresh = [...page.querySelectorAll(selector)];
    return [...document.querySelectorAll(selector)].slice(0, fresh.length).map((node, at) => [node, fresh[at]]);
  };

  const lock = () => {
    // What is on the screen must go; what is being typed travels through the login page.
    const button = form === null ? null : form.querySelector("button[value=review]");
    if (button !== null && (isTyped() || wasTyped)) form.requestSubmit(button);
    else location.replace("/login?next=" + location.pathname);
  };

  // Typing is use, though the server sees none of it: without this a long text would be locked half-written.
  let toldMs = Date.now();
  document.addEventListener("input", () => {
    if (Date.now() - toldMs < 120000) return;
    toldMs = Date.now();
    fetch("/status", { headers: { Accept: "application/json" } }).catch(() => {});
  });

  let stream = null;
  let timer = 0;
  const soon = () => {
    // A burst of sixty alerts is one refresh.
    clearTimeout(timer);
    timer = setTimeout(() => refresh().catch(() => {}), 150);
  };
  const listen = () => {
    if (stream !== null || document.hidden) return;
    stream = new EventSource("/events");
    for (const kind of ["inbox", "outbox", "pending", "link"]) stream.addEventListener(kind, soon);
    stream.addEventListener("ended", lock);
    // Closed for good means that the answer was not a stream: ask whether the session still lives.
    stream.addEventListener("error", () => {
      if (stream.readyState !== EventSource.CLOSED) return;
      stream = null;
      fetchPage("/status").then(() => setTimeout(listen, 5000), (why) => (why.message === "200" || why.message === "401") && lock());
    });
  };
  // Browsers allow six connections to one address: only the tab in sight holds one.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && stream !== null) {
      stream.close();
      stream = null;
    } else if (!document.hidden) {
      listen();
      soon();
    }
  });
  listen();
})();
