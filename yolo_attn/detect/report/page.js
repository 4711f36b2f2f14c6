"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const options = { renderer: "svg", actions: false, ast: true, mode: "vega-lite" };
  const charts = [...document.querySelectorAll(".chart")];
  const views = new Map(); // chart -> its Vega view
  const hidden = new Map(); // section -> names of models that are switched off

  const draw = async (div, choice = 0) => {
    views.get(div)?.finalize();
    const { view } = await vegaEmbed(div, specs[div.id.replace("plot-", "")][choice], options);
    views.set(div, view);
    await view.signal("hidden", [...(hidden.get(div.dataset.section) ?? [])]).runAsync();
  };

  // a model's button applies to all plots of its dataset
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const { section, model } = button.dataset;
      const off = hidden.get(section) ?? new Set();
      if (!off.delete(model)) off.add(model);
      hidden.set(section, off);
      button.setAttribute("aria-pressed", String(!off.has(model)));
      const shown = charts.filter((div) => div.dataset.section === section);
      shown.forEach((div) => views.get(div)?.signal("hidden", [...off]).runAsync());
    });
  }
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

  const dialog = document.querySelector("dialog");
  for (const button of document.querySelectorAll(".zoom")) {
    button.addEventListener("click", () => {
      const drawing = button.querySelector("svg").cloneNode(true);
      drawing.querySelector("image")?.removeAttribute("id");
      dialog.querySelector("div").replaceChildren(drawing, button.parentElement.querySelector("figcaption").cloneNode(true));
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

  const folded = [...document.querySelectorAll("details")];
  addEventListener("beforeprint", () => folded.forEach((d) => { d.dataset.was = d.open; d.open = true; }));
  addEventListener("afterprint", () => folded.forEach((d) => { d.open = d.dataset.was === "true"; }));
  Promise.all(charts.map((div) => draw(div))).then(() => document.documentElement.setAttribute("data-ready", ""));
})();
