// The errors of a predictions table: filtered, one after the other, each in its scene.
import { $, ask, attempt, el, fill, later, percent } from "./dom.js";
import { openDialogue, show } from "./conversation.js";
import { bars, verdict, words } from "./lines.js";

const PAGE = 25;
let start, table, found = 0, current = 0, offset = 0, rows = [], scene = [], begun = false, turn = 0;

function question() {
  const asked = new URLSearchParams({ wrong: $("wrong").checked, order: $("order").value, offset, count: PAGE });
  for (const [name, id] of [["gold", "gold"], ["answer", "answer"], ["speaker", "who"]]) {
    if ($(id).value) asked.set(name, $(id).value);
  }
  for (const id of ["least", "most"]) asked.set(id, Math.min(1, Math.max(0, Number($(id).value) / 100)));
  return asked;
}

async function load(number) {
  const mine = ++turn;
  current = Math.max(0, number);
  offset = Math.floor(current / PAGE) * PAGE;
  const answer = await ask(`/api/tables/${$("table").value}/rows?${question()}`);
  if (mine !== turn) return;
  ({ found, rows } = answer);
  drawRows();
  await drawScene(mine);
}

function drawRows() {
  $("rows").tBodies[0].replaceChildren(...rows.map((row, i) => {
    const { line } = row, button = el("button", { type: "button" }, `${row.dialogue_id}, ${line.number ?? row.utterance_id}`);
    button.onclick = () => attempt(() => move(offset + i - current));
    const cell = (text) => el("td", { class: "left" }, el("bdi", {}, text ?? ""));
    return el("tr", {}, el("td", { class: "left" }, button), cell(line.speaker), cell(line.gold), cell(line.answer ?? "invalid"),
      el("td", {}, line.probability === null ? "" : percent(line.probability)));
  }));
}

async function drawScene(mine, stepped = false) {
  const row = rows[current - offset], kind = $("wrong").checked ? "Error" : "Line";
  $("position").textContent = row ? `${kind} ${current + 1} of ${found}` : `No ${kind.toLowerCase()} is left by this filter.`;
  $("previous").disabled = current <= 0;
  $("next").disabled = current + 1 >= found;
  $("take").disabled = true;
  [...$("rows").tBodies[0].rows].forEach((tr, i) => tr.classList.toggle("here", offset + i === current));
  if (!row) {
    scene = [];
    $("scene").replaceChildren();
    return;
  }
  const answer = await ask(`/api/tables/${$("table").value}/scenes/${row.row}`);
  if (mine !== turn) return;
  scene = answer.lines;
  $("scene").replaceChildren(...scene.map((each) => {
    const { line } = each, here = each.row === row.row, item = el("li", here ? { class: "here", "aria-current": "true" } : {});
    if (line.number !== null) item.value = line.number;
    item.append(words([line.speaker], line.text), verdict("", line.answer, line.probability, line.gold));
    if (here && each.probabilities) item.append(bars("Probabilities", table.labels, each.probabilities, line.answer, line.gold));
    return item;
  }));
  $("take").disabled = false;
  if (stepped) $("scene").querySelector(".here").scrollIntoView({ block: "nearest" });
}

async function move(step) {
  const number = current + step;
  if (number < 0 || number >= found) return;
  if (number < offset || number >= offset + rows.length) await load(number);
  else {
    current = number;
    await drawScene(++turn, true);
  }
}

const openTable = () => attempt(async () => {
  table = await ask(`/api/tables/${$("table").value}`);
  const any = [["", "any"]], labels = [...any, ...table.labels.map((label) => [label, label])];
  fill($("gold"), labels, "");
  fill($("answer"), labels, "");
  fill($("who"), [...any, ...table.speakers.map(([name, count]) => [name, `${name.slice(0, 60)} (${count})`])], "");
  const probabilities = table.has_probabilities ? "" : " It has no probabilities.";
  const text = table.has_text ? "" : " It has no text.";
  $("table-about").textContent = `${table.system} on ${table.split} of ${table.corpus}: ${table.rows.toLocaleString("en")} lines, ` +
    `${table.wrong.toLocaleString("en")} errors.${probabilities}${text}`;
  await load(0);
});

/** Opens the scene whole if a corpus of the page has it, otherwise the lines that are shown. */
async function take() {
  const row = rows[current - offset], wanted = scene.find((each) => each.row === row.row);
  for (let corpus = 0; corpus < start.corpora.length; corpus += 1) {
    const same = await ask("/api/dialogue", { corpus, dialogue: row.dialogue_id }).catch(() => null);
    if (same?.lines.some((line) => line.text === wanted.line.text)) {
      location.hash = "conversation";
      await openDialogue(corpus, row.dialogue_id);
      return;
    }
  }
  if (wanted.line.text === null) throw new Error("the table has no text, and no corpus of the page has this scene; add --corpus FOLDER");
  location.hash = "conversation";
  await show(scene.map(({ line }) => ({ speakers: [line.speaker || "?"], text: line.text, gold: line.gold })));
}

export function begin(given) {
  start = given;
  $("no-table").hidden = start.tables.length > 0;
  $("table-part").hidden = !start.tables.length;
  fill($("table"), start.tables.map((name, i) => [String(i), name]));
  $("table").onchange = openTable;
  const again = () => attempt(() => load(0));
  for (const id of ["gold", "answer", "who", "order", "wrong"]) $(id).onchange = again;
  for (const id of ["least", "most"]) $(id).oninput = later(again);
  $("filter").onsubmit = (event) => event.preventDefault();
  $("previous").onclick = () => attempt(() => move(-1));
  $("next").onclick = () => attempt(() => move(1));
  $("take").onclick = () => attempt(take);
}

/** Called when the view is opened; the first time, it opens the first table. */
export function opened() {
  if (begun || !start.tables.length) return;
  begun = true;
  openTable();
}
