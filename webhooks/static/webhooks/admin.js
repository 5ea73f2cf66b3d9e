// Conveniences of the operators' admin; every page works without them.

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = document.querySelector(button.dataset.copy).textContent;
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select and copy by hand";
  }
  setTimeout(() => (button.textContent = label), 1500);
});

// Progress: asked for again while the page is looked at and something still moves.
const REFRESH_MS = 700;

async function refresh(element) {
  if (element.hasAttribute("data-done") || element.querySelector("[data-done]")) return;
  if (!document.hidden) {
    try {
      const answer = await fetch(element.dataset.refresh, { credentials: "same-origin" });
      if (answer.redirected || !answer.ok) return;
      element.innerHTML = await answer.text();
      addLocalTimes(element);
    } catch {
      // The server is away for a moment.
    }
  }
  setTimeout(() => refresh(element), REFRESH_MS);
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("[data-refresh]").forEach((element) => {
    setTimeout(() => refresh(element), REFRESH_MS);
  });
});

// unfold opens its filters and menus with elements that the keyboard cannot reach.
function makeReachable(element) {
  element.tabIndex = 0;
  element.setAttribute("role", "button");
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    element.click();
  });
}

document.addEventListener("DOMContentLoaded", () => {
  const dead = "a:not([href])[x-on\\:click], span[x-on\\:click], div.cursor-pointer[x-on\\:click]";
  document.querySelectorAll(dead).forEach(makeReachable);
});

// Suggestions of owners: asked for while somebody types.
document.addEventListener("input", async (event) => {
  const list = event.target.list;
  if (!list || !list.dataset.suggest) return;
  const start = event.target.value;
  if (start.length < 2) return;
  const query = new URLSearchParams({ q: start });
  const answer = await fetch(`${list.dataset.suggest}?${query}`, { credentials: "same-origin" });
  if (!answer.ok || event.target.value !== start) return;
  const { owners } = await answer.json();
  list.replaceChildren(...owners.map((owner) => new Option(owner, owner)));
});

// An attempt that the URL names is opened.
document.addEventListener("DOMContentLoaded", () => {
  const named = location.hash && document.getElementById(location.hash.slice(1));
  if (named && named.tagName === "DETAILS") named.open = true;
});

// The reader's own time beside UTC, or in the title of a relative time.
const localTime = new Intl.DateTimeFormat([], {
  year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit",
  second: "2-digit", timeZoneName: "short",
});

function addLocalTimes(root) {
  if (new Date().getTimezoneOffset() === 0) return;
  root.querySelectorAll("time[datetime]").forEach((element) => {
    const local = localTime.format(new Date(element.dateTime));
    if (element.matches(".op-exact")) element.append(` (${local})`);
    else element.title += `, ${local}`;
  });
}

document.addEventListener("DOMContentLoaded", () => addLocalTimes(document));

// What Django's and unfold's widgets leave without a name or a role.
function nameWidgets() {
  document.querySelectorAll(".select2-selection").forEach((box) => {
    const field = box.closest(".select2-container").previousElementSibling;
    const label = field && field.labels && field.labels[0];
    const name = label ? label.textContent.trim() : "Choose one";
    // Its text, which is empty at first, would be its name.
    box.removeAttribute("aria-labelledby");
    box.setAttribute("aria-label", name);
    const shown = box.querySelector(".select2-selection__rendered");
    if (shown && shown.getAttribute("role")) shown.setAttribute("aria-label", name);
  });
  document.querySelectorAll(".help-tooltip[aria-label]").forEach((tip) => {
    tip.setAttribute("role", "img");
  });
}

// After the handlers of other scripts, which make these widgets.
window.addEventListener("load", () => setTimeout(nameWidgets, 0));
