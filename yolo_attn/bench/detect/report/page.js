"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const fine = matchMedia("(pointer: fine)").matches;
  const config = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false, doubleClick: "reset" };
  const hidden = new Map(); // section -> names of models that are switched off

  const drawn = (div) => {
    const choice = figures[div.dataset.figure];
    const figure = choice.columns ? choice.columns[div.dataset.column || 0] : choice;
    const off = hidden.get(div.dataset.section) || new Set();
    const data = figure.data.map((trace) => ({ ...trace, visible: !off.has(trace.meta) }));
    const layout = { ...figure.layout, dragmode: fine ? "zoom" : false, uirevision: "kept" };
    return Plotly.react(div, data, layout, config);
  };
  const plots = [...document.querySelectorAll(".chart")];
  const first = Promise.all(plots.map(drawn));

  // what a model's button says holds for all plots of its dataset
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const { section, model } = button.dataset;
      const off = hidden.get(section) || new Set();
      if (!off.delete(model)) off.add(model);
      hidden.set(section, off);
      button.setAttribute("aria-pressed", String(!off.has(model)));
      plots.filter((div) => div.dataset.section === section).forEach(drawn);
    });
  }
  for (const select of document.querySelectorAll("select[data-for]")) {
    select.addEventListener("change", () => {
      const div = document.getElementById(select.dataset.for);
      div.dataset.column = select.value;
      drawn(div);
    });
  }

  // numbers by their value and words by their letters; what is missing comes last in both directions
  const value = (row, column) => row.cells[column].dataset.value ?? "";
  const sort = (header) => {
    const table = header.closest("table");
    const column = header.cellIndex;
    const numeric = header.dataset.kind === "number";
    const next = { none: numeric ? "descending" : "ascending", ascending: "descending", descending: "ascending" };
    const direction = next[header.getAttribute("aria-sort")];
    const sign = direction === "ascending" ? 1 : -1;
    for (const other of table.tHead.rows[0].cells) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", other === header ? direction : "none");
    }
    const rows = [...table.tBodies[0].rows];
    const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
    rows.sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * compare(x, y);
    });
    table.tBodies[0].append(...rows);
  };
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }

  const dialog = document.querySelector("dialog");
  for (const button of document.querySelectorAll(".zoom")) {
    button.addEventListener("click", () => {
      const caption = button.parentElement.querySelector("figcaption").cloneNode(true);
      const drawing = button.querySelector("svg").cloneNode(true);
      const picture = drawing.querySelector("image");
      if (picture) picture.removeAttribute("id");
      dialog.querySelector("div").replaceChildren(drawing, caption);
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  for (const box of document.querySelectorAll("input[data-labels]")) {
    const apply = () => document.getElementById(box.dataset.labels).classList.toggle("unlabelled", !box.checked);
    box.addEventListener("change", apply);
    apply();
  }

  // the width of paper is not known before it is printed on: A4 and Letter, upright, with margins, hold this
  const paper = 660;
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((d) => { d.dataset.was = d.open; d.open = true; });
    plots.forEach((div) => Plotly.relayout(div, { width: Math.min(paper, div.clientWidth || paper) }));
  });
  addEventListener("afterprint", () => {
    document.querySelectorAll("details").forEach((d) => { d.open = d.dataset.was === "true"; });
    plots.forEach((div) => Plotly.relayout(div, { width: null, autosize: true }));
  });
  first.then(() => document.documentElement.setAttribute("data-ready", ""));
})();
