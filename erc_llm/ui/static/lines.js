// One line of a conversation as it is shown: who says what, the answer, and the probability of each label.
import { el, percent } from "./dom.js";

/** The speaker and the text; each is kept apart, so that right-to-left text turns nothing else round. */
export function words(speakers, text) {
  const said = text === null ? "(the table has no text)" : text;
  return el("p", { class: "said" },
    el("bdi", { class: "who" }, speakers.join(", ")), " ",
    el("span", { class: said.length > 600 ? "words long" : "words", dir: "auto", ...(said.length > 600 && { tabindex: "0" }) }, said));
}

/** A bar for each label. */
export function bars(name, labels, probabilities, answer, gold) {
  const items = labels.map((label, i) => {
    const share = probabilities[i];
    const bar = el("span", { class: "track", "aria-hidden": "true" });
    bar.style.setProperty("--share", share);
    const classes = [label === answer && "answer", label === gold && "gold"].filter(Boolean).join(" ");
    return el("li", { class: classes }, el("span", {}, `${label} ${percent(share)}`), bar);
  });
  return el("ul", { class: "bars", "aria-label": name }, ...items);
}

/** The answer in words, and whether it is the gold label. */
export function verdict(name, answer, share, gold) {
  const parts = [name && `${name}: `, el("strong", {}, answer ?? "no label")];
  if (share !== undefined && share !== null) parts.push(` ${percent(share)}`);
  if (gold && answer === gold) parts.push(el("span", { class: "good" }, " \u2713 gold"));
  else if (gold) parts.push(el("span", { class: "bad" }, ` \u2717 gold: ${gold}`));
  return el("p", { class: "verdict" }, ...parts.filter(Boolean));
}
