
// Behind every number its samples: a dialog, opened by a click, closed by its button, Escape or a click beside it.
for (const button of document.querySelectorAll("button[data-sheet]")) {
  button.addEventListener("click", () => document.getElementById(button.dataset.sheet).showModal());
}
for (const sheet of document.querySelectorAll("dialog")) {
  sheet.querySelector(".close").addEventListener("click", () => sheet.close());
  sheet.addEventListener("click", event => { if (event.target === sheet) sheet.close(); });
  sheet.addEventListener("close", () => { for (const audio of sheet.querySelectorAll("audio")) audio.pause(); });
}
