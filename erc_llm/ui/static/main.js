// The page: its three views, of which the address names one.
import { $, ask, attempt } from "./dom.js";
import * as conversation from "./conversation.js";
import * as errors from "./errors.js";
import * as training from "./training.js";

const VIEWS = { conversation: "Conversation", errors: "Errors", training: "Training" };

function view() {
  const wanted = location.hash.slice(1), shown = wanted in VIEWS ? wanted : "conversation";
  for (const name of Object.keys(VIEWS)) $(name).hidden = name !== shown;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${shown}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("problem").hidden = true;
  document.title = `${VIEWS[shown]} - erc-llm`;
  if (shown === "errors") errors.opened();
  if (shown === "training") training.opened();
}

attempt(async () => {
  const start = await ask("/api/start");
  conversation.begin(start);
  errors.begin(start);
  training.begin(start);
  addEventListener("hashchange", view);
  view();
  document.documentElement.dataset.ready = "true";
});
