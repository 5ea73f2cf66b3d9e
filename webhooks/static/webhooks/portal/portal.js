// Conveniences of the portal; every task works without them.

// Copy the text of an element.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(document.querySelector(button.dataset.copy).textContent);
    button.textContent = button.dataset.copied;
  } catch {
    // In a frame without permission: select it, so that a key press copies it.
    getSelection().selectAllChildren(document.querySelector(button.dataset.copy));
  }
  setTimeout(() => (button.textContent = label), 1500);
});

// Parts that move are asked for again, while the page is looked at and until they say that they rest.
async function refresh(part) {
  if (part.querySelector("[data-done]")) return;
  if (!document.hidden) {
    try {
      const answer = await fetch(part.dataset.refresh, { credentials: "same-origin" });
      if (answer.redirected || !answer.ok) return;
      const text = await answer.text();
      // What somebody reads or points at stays as it is where nothing has changed.
      if (text !== part.lastText) part.innerHTML = part.lastText = text;
    } catch {
      // The server is away for a moment.
    }
  }
  setTimeout(() => refresh(part), Number(part.dataset.every));
}

document.addEventListener("DOMContentLoaded", () => {
  for (const part of document.querySelectorAll("[data-refresh]")) {
    setTimeout(() => refresh(part), Number(part.dataset.every));
  }
  for (const form of document.querySelectorAll("form[data-at-once]")) form.requestSubmit();
  for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
});
