// The conversation: written, pasted or opened; labelled live by one system, or by two that are compared.
import { $, ask, attempt, el, fill, later, percent } from "./dom.js";
import { bars, verdict, words } from "./lines.js";

let start, lines = [], place = null, results = new Map(), turn = 0, loaded = new Set(), waiting = Promise.resolve();

/** A choice is a system and one of its ways to answer, as `0/probable`. */
function chosen(id) {
  const value = $(id).value;
  if (!value) return null;
  const number = Number(value.split("/")[0]), system = start.systems[number];
  return { number, system, way: system.ways.find((way) => way.name === value.split("/")[1]) };
}

const choices = () => [chosen("first"), chosen("second")].filter(Boolean);

function answered(choice, k) {
  const line = results.get(choice.number)?.[k];
  if (!line) return null;
  const probabilities = choice.way.calibrated ? line.calibrated : line.plain, answer = line.answers[choice.way.name];
  return { answer, probabilities, share: probabilities[choice.system.labels.indexOf(answer)] };
}

const differs = (k) => {
  const found = choices().map((choice) => answered(choice, k)).filter(Boolean);
  return found.length === 2 && found[0].answer !== found[1].answer;
};

function item(k) {
  const { speakers, text, gold } = lines[k], made = el("li", { tabindex: "-1" }, words(speakers, text));
  const known = choices().map((choice) => [choice, answered(choice, k)]);
  if (!text.trim()) made.append(el("p", { class: "dim" }, "no text: context only"));
  for (const [choice, found] of known) {
    const name = known.length > 1 ? `${choice.system.name}, ${choice.way.words}` : "";
    if (!found) continue;
    made.append(verdict(name, found.answer, found.share, gold),
      bars(`Probabilities by ${choice.system.name}`, choice.system.labels, found.probabilities, found.answer, gold));
  }
  if (differs(k)) {
    made.className = "differs";
    made.append(el("p", { class: "unsure" }, "They disagree here."));
  }
  if (known[0]?.[1]) made.append(promptButton(k));
  return made;
}

function promptButton(k) {
  const panel = el("div", { class: "prompt", hidden: true });
  const button = el("button", { type: "button", "aria-expanded": "false" }, `Prompt and profile of line ${k + 1}`);
  button.onclick = () => attempt(async () => {
    panel.hidden = !panel.hidden;
    button.setAttribute("aria-expanded", String(!panel.hidden));
    if (panel.hidden || panel.childNodes.length) return;
    const found = await ask("/api/prompt", { ...question(chosen("first").number), position: k });
    const told = found.profiles.length ? found.profiles.map((text) => el("p", { dir: "auto" }, text))
      : [el("p", {}, found.has_profiles ? "The model was told nothing about these speakers." : "This run's prompts have no profiles.")];
    const pieces = found.pieces.map((piece) => el("span", { class: `piece ${piece.kind}` }, piece.text));
    const state = found.states ? [el("p", { class: "dim" }, "The model is asked once more, with its answers about earlier lines.")] : [];
    panel.append(el("h3", {}, "What the model was told about the speakers"), ...told,
      el("h3", {}, `The prompt, ${found.tokens} tokens`), ...state,
      el("pre", { tabindex: "0", "aria-label": "The prompt" }, ...pieces));
  });
  return el("div", { class: "more" }, button, panel);
}

const question = (system) => ({ system, lines: lines.map(({ speakers, text }) => ({ speakers, text })), place });

/** Asks for labels that are not known yet, one question after the other; what came too late is dropped. */
function label() {
  const mine = ++turn;
  waiting = waiting.then(() => attempt(async () => {
    for (const choice of choices()) {
      if (mine !== turn) return;
      const known = results.get(choice.number) ?? [];
      if (!lines.length || known.length === lines.length) continue;
      const asked = lines.length;
      const first = loaded.has(choice.number) ? "" : " (the first time, its model is loaded)";
      $("outcome").textContent = `labelling by ${choice.system.name} ...${first}`;
      const found = await ask("/api/labels", question(choice.number)).catch((error) => {
        $("outcome").textContent = "";
        throw error;
      });
      loaded.add(choice.number);
      if (mine !== turn) return;
      results.set(choice.number, found.lines);
      if (known.length !== asked - 1) draw();
    }
    if (mine === turn) latest();
  }));
  return waiting;
}

function draw() {
  $("lines").replaceChildren(...lines.map((_, k) => item(k)));
  const names = [...new Set(lines.flatMap((line) => line.speakers))].slice(-50);
  $("speakers").replaceChildren(...names.map((value) => el("option", { value })));
  for (const id of ["remove", "new", "edit"]) $(id).disabled = !lines.length;
}

/** Draws the last line alone, which is what changes while somebody types, and says what there is to say of all. */
function latest() {
  const list = $("lines"), k = lines.length - 1;
  if (k >= 0 && list.children.length === lines.length) list.children[k].replaceWith(item(k));
  const different = lines.filter((_, i) => differs(i)).length, found = k < 0 ? null : answered(choices()[0], k);
  $("next-difference").hidden = !different;
  const parts = [];
  if (found) parts.push(`${lines[k].speakers.join(", ")}: ${found.answer} ${percent(found.share)}.`);
  if (choices().length > 1 && lines.length) parts.push(`They disagree on ${different} of ${lines.length} lines.`);
  const judged = lines.map((line, i) => [line.gold, answered(choices()[0], i)?.answer]).filter(([gold, answer]) => gold && answer);
  if (judged.length) parts.push(`${judged.filter(([gold, answer]) => gold === answer).length} of ${judged.length} are the gold label.`);
  $("outcome").textContent = parts.join(" ");
}

/** Shows another conversation. */
export function show(newLines, newPlace = null) {
  lines = newLines;
  place = newPlace;
  results = new Map();
  $("outcome").textContent = "";
  $("next-difference").hidden = true;
  $("beginning").open = false;
  draw();
  return label();
}

function say(event) {
  event.preventDefault();
  const who = $("speaker").value.trim(), text = $("line").value.trim();
  if (!who || !text || !choices().length) return;
  lines.push({ speakers: [who], text, gold: null });
  $("line").value = "";
  const list = $("lines");
  list.append(item(lines.length - 1));
  if (![...$("speakers").children].some((option) => option.value === who)) $("speakers").append(el("option", { value: who }));
  for (const id of ["remove", "new", "edit"]) $(id).disabled = false;
  list.lastChild.scrollIntoView({ block: "nearest" });
  $("line").focus();
  label();
}

/** Lines of a text; a line without a colon goes on from the one before. */
export function parse(text) {
  const found = [];
  for (const row of text.split(/\r?\n/)) {
    const at = row.indexOf(":"), who = row.slice(0, at).trim();
    if (at > 0 && who) found.push({ speakers: [who], text: row.slice(at + 1).trim(), gold: null });
    else if (row.trim() && found.length) found.at(-1).text += ` ${row.trim()}`;
    else if (row.trim()) throw new Error(`'${row.trim().slice(0, 40)}': found no speaker; write each line as Name: text`);
  }
  if (!found.length) throw new Error("found no line; write each line as Name: text");
  return found;
}

const splits = () => {
  const corpus = start.corpora[Number($("corpus").value)];
  fill($("split"), Object.entries(corpus.splits).map(([name, count]) => [name, `${name} (${count})`]));
  return dialogues();
};

const dialogues = () => attempt(async () => {
  const asked = new URLSearchParams({ split: $("split").value, contains: $("contains").value });
  const found = await ask(`/api/corpora/${$("corpus").value}/dialogues?${asked}`);
  fill($("dialogue"), found.dialogues.map(([id, count]) => [id, `${id} (${count} lines)`]));
});

export async function openDialogue(corpus, dialogue) {
  const found = await ask("/api/dialogue", { corpus, dialogue });
  await show(found.lines, { corpus, dialogue });
}

function nextDifference() {
  const all = [...document.querySelectorAll("#lines > .differs")], at = all.indexOf(document.activeElement);
  const next = all[(at + 1) % all.length];
  next?.focus();
}

function changed() {
  const [first] = choices();
  $("about").textContent = first ? `${first.system.name}: ${first.system.words}.` : "No system: name a run, such as erc-llm ui runs/NAME.";
  draw();
  label();
}

export function begin(given) {
  start = given;
  const ways = start.systems.flatMap((system, i) => system.ways.map((way) => [`${i}/${way.name}`, `${system.name}: ${way.words}`]));
  fill($("first"), ways, start.systems.length ? `0/${start.systems[0].usual}` : "");
  fill($("second"), [["", "nothing"], ...ways]);
  $("first").onchange = $("second").onchange = changed;
  fill($("corpus"), start.corpora.map((corpus, i) => [String(i), corpus.name]));
  $("corpus").onchange = splits;
  $("split").onchange = dialogues;
  $("contains").oninput = later(dialogues);
  $("open").onsubmit = (event) => {
    event.preventDefault();
    attempt(() => openDialogue(Number($("corpus").value), $("dialogue").value));
  };
  $("paste").onsubmit = (event) => {
    event.preventDefault();
    attempt(() => show(parse($("pasted").value)));
  };
  $("say").onsubmit = say;
  $("next-difference").onclick = nextDifference;
  $("remove").onclick = () => show(lines.slice(0, -1), place);
  $("new").onclick = () => show([]).then(() => $("speaker").focus());
  $("edit").onclick = () => {
    $("pasted").value = lines.map((line) => `${line.speakers.join(", ")}: ${line.text}`).join("\n");
    $("beginning").open = true;
    $("pasted").focus();
  };
  changed();
  if (start.corpora.length) splits();
}
