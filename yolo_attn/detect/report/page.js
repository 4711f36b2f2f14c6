"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const options = { renderer: "svg", actions: false, ast: true, mode: "vega-lite" };
  const draw = (div, choice = 0) => vegaEmbed(div, specs[div.id.replace("plot-", "")][choice], options);
  for (const select of document.querySelectorAll("select[data-for]")) {
    select.addEventListener("change", () => draw(document.getElementById(select.dataset.for), select.value));
  }

  // numbers by value and text by letters; missing values come last in both directions
  const sort = (header) => {
    const table = header.closest("table");
    const numeric = header.dataset.kind === "number";
    const next = { none: numeric ? "descending" : "ascending", ascending: "descending", descending: "ascending" };
    const direction = next[header.ariaSort];
    const sign = direction === "ascending" ? 1 : -1;
    for (const other of table.tHead.rows[0].cells) other.ariaSort = other === header ? direction : "none";
    const value = (row) => row.cells[header.cellIndex].dataset.value;
    const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      return x === "" || y === "" ? (x === "") - (y === "") : sign * compare(x, y);
    });
    table.tBodies[0].append(...rows);
  };
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }

  addEventListener("keydown", (event) => event.key === "Escape" && document.activeElement.blur());
  const folded = [...document.querySelectorAll("details")];
  addEventListener("beforeprint", () => folded.forEach((d) => { d.dataset.was = d.open; d.open = true; }));
  addEventListener("afterprint", () => folded.forEach((d) => { d.open = d.dataset.was === "true"; }));
  const drawn = [...document.querySelectorAll(".chart")].map((div) => draw(div));
  Promise.all(drawn).then(() => document.documentElement.setAttribute("data-ready", ""));
})();
