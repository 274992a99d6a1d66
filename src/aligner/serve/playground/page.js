"use strict";

// Text of models is only ever put in as text: nothing here reads markup.

const $ = (id) => document.getElementById(id);

// Why an answer stands as it was, in plain words.
const REASONS = {
  off: "correction is off",
  share: "this request is not in the share that is corrected",
  shadow: "the gateway runs in shadow mode, which only records what would change",
  structured_output: "the answer has a format that was asked for",
  infill: "the answer fills a gap in a text",
  no_question: "there is no question to correct it by",
  prefill: "the answer goes on from words that were given",
  tool_calls: "the answer calls a tool",
  content_filter: "the upstream's content filter cut it",
  length: "the upstream cut it where it was as long as it may be",
  unseen_turns: "its question goes on from turns that only the upstream has",
  empty: "there is no text to correct",
  upstream_status: "the upstream did not answer",
  cut: "the correction ended before it was finished",
  emptied: "the correction was blank",
  broken_format: "the correction broke the answer's format",
  script_leak: "the correction had characters of a foreign script",
  changed_language: "the correction was in another language",
  repeated: "the correction repeated itself",
  collapsed: "the correction left next to nothing of the answer",
  unbalanced_fence: "the correction left a code fence open",
  lost_code_fence: "the correction lost a code fence",
  lost_table: "the correction broke a table",
  lost_latex: "the correction broke a formula",
  lost_citation: "the correction dropped a citation",
  changed_numbers: "the correction changed a number",
  changed_urls: "the correction changed a web address",
  too_long: "question and answer are too long for the corrector",
  cancelled: "the correction was cancelled",
  error: "the corrector failed",
  correction_failed: "the corrector failed",
  correction_timeout: "the corrector took too long",
  queue_full: "too many answers waited for the corrector",
  not_better: "no correction was ranked above it",
  unscored: "the corrections could not be ranked",
};

let running = null; // the controller of the request under way
let models = 0; // counts the loads of the models, so that only the last one is shown

class Told extends Error {} // its message is meant to be read

const line = (text) => String(text).replace(/\s+/g, " ").trim().slice(0, 500);

function fail(text) {
  $("error").textContent = line(text);
  $("error").hidden = !text;
}

// Requests go without cookies: those of whatever else this host serves are not the upstream's to see.
function headers() {
  const key = $("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** What a response that is no success says, as one line. */
async function refusal(response) {
  const text = await response.text();
  let said = text;
  try {
    const value = JSON.parse(text);
    said = value.error?.message ?? value.error ?? value.detail ?? value.message ?? text;
  } catch {
    // It is no JSON, so its own words are shown.
  }
  return new Told(line(`${response.status}: ${typeof said === "string" ? said : JSON.stringify(said)}`));
}

function told(error) {
  return error instanceof Told ? error.message : "The gateway cannot be reached, or broke off; is it still running?";
}

/* What the gateway has. */

async function got(path) {
  const response = await fetch(path, { credentials: "omit", headers: headers() });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

async function load() {
  const turn = ++models;
  try {
    const [settings, list] = await Promise.all([got("playground/settings"), got("v1/models").catch((e) => e)]);
    if (turn !== models) return;
    for (const option of $("gate").options) {
      option.disabled = option.value !== "" && !settings.gates.includes(option.value);
    }
    $("gate").options[0].textContent = `as the gateway has it (${settings.gate})`;
    $("best-of").max = settings.max_best_of;
    $("best-of").disabled = settings.max_best_of < 2;
    $("best-of").placeholder = settings.max_best_of < 2 ? "needs a scorer" : `1 to ${settings.max_best_of}`;
    const named = Array.isArray(list.data) ? list.data.map((model) => String(model.id)) : [];
    const chosen = $("model").value;
    $("model").replaceChildren(...named.map((name) => new Option(name, name, false, name === chosen)));
    $("model").hidden = named.length === 0;
    $("model-name").hidden = named.length > 0;
    fail(list instanceof Error ? `The models are not known. ${told(list)}` : "");
  } catch (error) {
    if (turn === models) fail(told(error));
  }
}

/* The request. */

function request() {
  const messages = [];
  if ($("system").value.trim()) messages.push({ role: "system", content: $("system").value });
  messages.push({ role: "user", content: $("question").value });
  const body = { model: $("model").hidden ? $("model-name").value.trim() : $("model").value, messages };
  if ($("stream").checked) body.stream = true;
  body.aligner = { return: true };
  if ($("correction").value === "off") {
    body.aligner = { off: true };
  } else {
    if ($("gate").value) body.aligner.gate = $("gate").value;
    if ($("best-of").value) body.aligner.best_of = Number($("best-of").value);
  }
  return body;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl(body) {
  const parts = [`curl${body.stream ? " -N" : ""} ${quoted(new URL("v1/chat/completions", document.baseURI).href)}`];
  parts.push("-H 'Content-Type: application/json'");
  if ($("key").value.trim()) parts.push('-H "Authorization: Bearer $ALIGNER_KEY"');
  parts.push(`--data-raw ${quoted(JSON.stringify(body, null, 2))}`);
  return parts.join(" \\\n  ");
}

/** The data of server-sent events, one by one. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const whole = (rest + (value ?? "") + (done ? "\n\n" : "")).split(/\r\n\r\n|\n\n|\r\r/);
    rest = whole.pop();
    for (const event of whole) {
      const data = event.split(/\r\n|\n|\r/).filter((part) => part.startsWith("data:"));
      if (data.length) yield data.map((part) => part.slice(5).replace(/^ /, "")).join("\n");
    }
    if (done) return;
  }
}

async function streamed(response, side) {
  let text = "";
  let last = {};
  let ended = false;
  for await (const data of events(response)) {
    if (data === "[DONE]") {
      ended = true;
      continue;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Told(line(chunk.error.message ?? JSON.stringify(chunk.error)));
    for (const choice of chunk.choices ?? []) {
      if (choice.index) continue;
      const piece = choice.delta?.content ?? "";
      if (piece) {
        text += piece;
        side.append(piece);
        $("status").textContent = "The text is coming.";
      } else if (choice.delta?.reasoning_content || choice.delta?.reasoning) {
        $("status").textContent = "The upstream is thinking.";
      }
      if (choice.aligner) last = choice.aligner;
      ended = ended || choice.finish_reason != null;
    }
  }
  if (!ended) throw new Told("The answer broke off before its end; try again.");
  return { text, said: last };
}

async function whole(response) {
  const choice = (await response.json()).choices?.[0] ?? {};
  const content = choice.message?.content ?? "";
  const text = Array.isArray(content) ? content.map((part) => part.text ?? "").join("\n") : content;
  return { text, said: choice.aligner ?? {} };
}

/* The result. */

const seconds = (value) => (value == null ? "not asked" : value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(2)} s`);

function side(diff, left) {
  const [mine, other, tag] = left ? ["delete", "insert", "del"] : ["insert", "delete", "ins"];
  const pieces = [];
  for (const [op, text] of diff) {
    if (op === other) continue;
    const piece = op === mine ? document.createElement(tag) : document.createTextNode("");
    piece.textContent = text;
    pieces.push(piece);
  }
  return pieces;
}

function decided(reason, said, changed) {
  if (said.late) return `Text had been shown already when a guard objected: ${REASONS[reason] ?? reason}.`;
  if (reason) return `The answer was kept: ${REASONS[reason] ?? reason}.`;
  if (said.gate?.passed) return "The gate let the answer through: the corrector finds it good as it is.";
  const how = said.buffered ? " All corrections were ranked before the best was shown." : "";
  return (changed ? "The corrector changed the answer." : "The corrector read the answer and left every word.") + how;
}

function gated(gate) {
  if (!gate) return "did not decide";
  const over = gate.threshold == null ? "" : `, threshold ${gate.threshold.toFixed(2)}`;
  const score = gate.score == null ? "no number" : gate.score.toFixed(2);
  return `${gate.passed ? "let it through" : "had it corrected"} (score ${score} nats${over})`;
}

function show(text, said, header, total) {
  const noted = /reason=([\w,]+)/.exec(header ?? "")?.[1].split(",")[0];
  const reason = said.reason !== undefined ? said.reason : noted;
  const diff = said.diff ?? (text ? [["equal", text]] : []);
  const changed = diff.some(([op]) => op !== "equal");
  $("answer").replaceChildren(...side(diff, true));
  $("corrected").replaceChildren(...side(diff, false));
  if (!text && !diff.length) $("answer").textContent = $("corrected").textContent = "(no text)";
  $("legend").hidden = !changed;
  $("decision").textContent = decided(reason, said, changed);
  $("time-upstream").textContent = said.seconds ? seconds(said.seconds.upstream) : "not told";
  $("time-corrector").textContent = said.seconds ? seconds(said.seconds.corrector) : "not asked";
  $("time-total").textContent = seconds(total);
  $("gate-said").textContent = gated(said.gate);
}

function clear() {
  for (const id of ["answer", "corrected"]) $(id).replaceChildren();
  for (const id of ["time-upstream", "time-corrector", "time-total", "gate-said"]) $(id).textContent = "–";
  for (const id of ["decision", "copied"]) $(id).textContent = "";
  $("legend").hidden = true;
}

async function ask() {
  if (running) return;
  fail("");
  if (!$("question").value.trim()) {
    fail("There is no question yet; write one.");
    $("question").focus();
    return;
  }
  if (!$("best-of").checkValidity()) {
    fail(`Best of takes a whole number from 1 to ${$("best-of").max}.`);
    $("best-of").focus();
    return;
  }
  const body = request();
  const controller = (running = new AbortController());
  clear();
  $("curl").textContent = curl(body);
  $("result").hidden = $("cancel").hidden = false;
  $("ask").setAttribute("aria-disabled", "true");
  $("status").textContent = "The upstream was asked.";
  const began = performance.now();
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      credentials: "omit",
      headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify(body),
      signal: controller.signal,
    });
    if (!response.ok) throw await refusal(response);
    const header = response.headers.get("x-aligner-corrected");
    // What the corrector never sees is the answer itself, so it is shown on that side.
    const shown = header?.startsWith("false") ? $("answer") : $("corrected");
    const stream = response.headers.get("content-type")?.startsWith("text/event-stream");
    const { text, said } = await (stream ? streamed(response, shown) : whole(response));
    show(text, said, header, (performance.now() - began) / 1000);
    $("status").textContent = "Done.";
  } catch (error) {
    if (controller.signal.aborted) {
      $("status").textContent = "Cancelled.";
    } else {
      $("status").textContent = "";
      fail(told(error));
    }
  } finally {
    running = null;
    if (document.activeElement === $("cancel")) $("question").focus();
    $("cancel").hidden = true;
    $("ask").removeAttribute("aria-disabled");
  }
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    $("copied").textContent = "Copied.";
  } catch {
    // Pages that are not served over HTTPS or from this machine may not write to the clipboard.
    getSelection().selectAllChildren($("curl"));
    $("copied").textContent = "Selected; copy it with the keyboard.";
  }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("cancel").addEventListener("click", () => running?.abort());
$("copy").addEventListener("click", copy);
$("key").addEventListener("change", load);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    ask();
  } else if (event.key === "Escape" && running) {
    event.preventDefault();
    running.abort();
  }
});
load();
