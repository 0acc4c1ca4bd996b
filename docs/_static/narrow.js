// On a phone, a table that is wider than the page becomes a list: each cell below its heading.
function stack() {
  for (const table of document.querySelectorAll(".table-wrapper > table")) {
    table.classList.remove("stacked");
    if (innerWidth > 700 || table.scrollWidth <= table.parentElement.clientWidth) continue;
    const headings = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, column) => (cell.dataset.heading = headings[column] ?? ""));
    }
    table.classList.add("stacked");
  }
}

addEventListener("DOMContentLoaded", stack);
addEventListener("resize", stack);
