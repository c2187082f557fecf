// Reads the data that the page carries and shows what the address asks for.

// Whoever tests the page reads this.
addEventListener("error", event => {
  document.body.dataset.error = event.message;
});
const main = document.getElementById("main");
const data = JSON.parse(document.getElementById("data").textContent);

function show(nodes, narrow) {
  main.classList.toggle("narrow", narrow);
  main.replaceChildren(...[nodes].flat(Infinity).filter(Boolean));
}

function route() {
  let name = location.hash.startsWith("#cell-") ? location.hash.slice(6) : "";
  try {
    name = decodeURIComponent(name);
  } catch {
    /* as it was typed */
  }
  const cell = matrix.cells.find(cell => cell.name === name);
  if (cell) {
    const list = visible();
    show(cellView(cell, list.includes(cell) ? list : matrix.cells), true);
    scrollTo(0, 0);
    if (matrix.back !== null) main.querySelector("h1").focus({ preventScroll: true });
    matrix.back = cell.name;
    return;
  }
  show(overview(data.matrix), false);
  const square = matrix.back && main.querySelector(`[data-cell="${CSS.escape(matrix.back)}"]`);
  if (square) {
    square.scrollIntoView({ block: "center", inline: "center" });
    square.focus({ preventScroll: true });
  }
}

if (data.matrix) {
  matrix.cells = data.matrix.cells;
  for (const cell of matrix.cells)
    cell.haystack = [
      cell.name,
      cell.when,
      cell.what,
      cell.place,
      cell.mode,
      cell.handshake,
      cell.injected,
      cell.ending,
      cell.why || "",
    ]
      .join(" ")
      .toLowerCase();
  matrix.back = null;
  route();
  if (matrix.back === null) matrix.back = "";
  addEventListener("hashchange", route);
} else {
  const tell = () => show(migrationView(data.story), true);
  tell();
  addEventListener("hashchange", tell);
}
document.body.dataset.ready = "1";
