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
