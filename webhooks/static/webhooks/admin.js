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
