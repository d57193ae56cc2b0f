// Training runs: a table that follows them, and the curves of one.
import { $, ask, el } from "./dom.js";

const EVERY = 2000; // milliseconds between two looks
const SVG = "http://www.w3.org/2000/svg";
let chosen = null, drawn = "", timer = null;

function duration(seconds) {
  if (seconds === null) return "";
  const minutes = Math.round(seconds / 60);
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const number = (value, digits) => (value === null ? "" : value.toFixed(digits));

/** Texts of a run's cells after its name. */
const cells = (run) => [
  run.state, run.total ? `${run.step} of ${run.total}` : String(run.step), duration(run.seconds_left),
  number(run.loss, 3), run.best === null ? "" : number(100 * run.best, 2),
  run.seconds_since === null ? "" : `${duration(run.seconds_since)} ago`,
];

/** Adds or updates the row of a run; a row stays the same element, so that it keeps the focus. */
function row(run) {
  const body = $("runs").tBodies[0];
  let found = [...body.rows].find((tr) => tr.dataset.id === run.id);
  if (!found) {
    const button = el("button", { type: "button" }, run.name);
    button.onclick = () => {
      chosen = run.id;
      look();
    };
    found = el("tr", {}, el("td", { class: "left" }, button),
      ...cells(run).map((_, i) => el("td", i ? {} : { class: "left" })), el("td", { class: "left" }));
    found.dataset.id = run.id;
    body.append(found);
  }
  cells(run).forEach((text, i) => {
    if (found.cells[i + 1].textContent !== text) found.cells[i + 1].textContent = text;
  });
  const link = found.cells[found.cells.length - 1];
  if (run.has_report && !link.childNodes.length) link.append(el("a", { href: `/reports/${run.id}`, target: "_blank" }, "report.html"));
  found.classList.toggle("here", run.id === chosen);
}

function shape(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A curve through points, with the ends of both axes. */
function plot(title, points, digits, unit) {
  const [width, height, left, right, top, bottom] = [560, 200, 56, 10, 10, 24];
  const xs = points.map((point) => point[0]), ys = points.map((point) => point[1]);
  const ends = (values) => [Math.min(...values), Math.max(...values)];
  const [[x0, x1], [y0, y1]] = [ends(xs), ends(ys)];
  const x = (value) => left + ((value - x0) / (x1 - x0 || 1)) * (width - left - right);
  const y = (value) => height - bottom - ((value - y0) / (y1 - y0 || 1)) * (height - top - bottom);
  const words = `${title}: ${ys[0].toFixed(digits)} ${unit} at step ${xs[0]}, ${ys.at(-1).toFixed(digits)} ${unit} at step ${xs.at(-1)}`;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words });
  svg.append(
    shape("polyline", { class: "curve", points: points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ") }),
    ...(points.length < 40 ? points.map(([a, b]) => shape("circle", { class: "dot", cx: x(a), cy: y(b), r: 3 })) : []),
    shape("path", { class: "axis", d: `M${left} ${top}V${height - bottom}H${width - right}` }),
    ...[[y1, top + 10], [y0, height - bottom]].map(([value, at]) => shape("text", { x: left - 6, y: at, "text-anchor": "end" }, value.toFixed(digits))),
    ...[[x0, left, "start"], [x1, width - right, "end"]].map(([value, at, anchor]) => shape("text", { x: at, y: height - 6, "text-anchor": anchor }, `step ${value}`)),
  );
  return el("figure", {}, el("figcaption", {}, title), svg, el("p", { class: "dim" }, `${words}.`));
}

async function curves(run) {
  const state = `${run.id} ${run.step} ${run.best}`;
  if (state === drawn) return;
  const { loss, scores } = await ask(`/api/training/${run.id}`);
  drawn = state;
  $("run-name").textContent = run.name;
  const parts = [];
  if (loss.length) parts.push(plot("Training loss, nats", loss, 3, "nats"));
  if (scores.length) parts.push(plot("Weighted F1 on the selection split, %", scores.map(([step, score]) => [step, 100 * score]), 2, "%"));
  $("curves").replaceChildren(...(parts.length ? parts : [el("p", {}, "No step was logged yet.")]));
}

async function look() {
  clearTimeout(timer);
  if ($("training").hidden) return;
  try {
    const { runs } = document.hidden ? { runs: null } : await ask("/api/training");
    if (runs) {
      for (const old of [...$("runs").tBodies[0].rows]) if (!runs.some((run) => run.id === old.dataset.id)) old.remove();
      if (!runs.some((run) => run.id === chosen)) chosen = runs[0]?.id ?? null;
      runs.forEach(row);
      const run = runs.find((each) => each.id === chosen);
      if (run) await curves(run);
      else $("curves").replaceChildren(el("p", {}, "No training run was found there yet."));
    }
    $("problem").hidden = true;
  } catch (error) {
    $("problem").textContent = error.message;
    $("problem").hidden = false;
  }
  clearTimeout(timer);
  timer = setTimeout(look, EVERY);
}

export function begin(start) {
  $("watched").textContent = start.watched.length ? `Followed: ${start.watched.join(", ")}. Steps are those of all epochs; early stopping may end before.`
    : "Nothing is followed: erc-llm ui --watch runs";
}

export const opened = look;
