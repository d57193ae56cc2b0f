// Small tools of the page. Every text becomes a text node, so names and lines are never read as markup.

export const $ = (id) => document.getElementById(id);

/** An element; `attributes` may hold properties such as `onclick` and `textContent`. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && typeof value !== "string") made[name] = value;
    else if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export const percent = (share) => `${Math.round(100 * share)} %`;

/** Options of a select, as [value, text]; keeps the present choice if it is still there. */
export function fill(select, options, chosen = select.value) {
  select.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

/** The server's answer to a question; throws an Error with its message. */
export async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("no answer: has erc-llm ui ended? Start it again, and reload this page");
  }
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}

/** Runs an action and shows what went wrong, if anything did. */
export async function attempt(action) {
  const place = $("problem");
  place.hidden = true;
  try {
    return await action();
  } catch (error) {
    place.textContent = error.message;
    place.hidden = false;
    return undefined;
  }
}

/** Calls an action once no further call came for a moment. */
export function later(action, milliseconds = 250) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
}
