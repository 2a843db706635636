// Sorting, filtering and the theme. Every page is readable without this file.
(() => {
  "use strict";
  const root = document.documentElement;
  const store = {
    get(key) { try { return localStorage.getItem(key); } catch { return null; } },
    set(key, value) { try { localStorage.setItem(key, value); } catch { /* private mode: the choice lasts for the page */ } },
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => store.get("theme") || (dark.matches ? "dark" : "light");
  const show = (name) => { root.dataset.theme = name; };
  show(theme());
  dark.addEventListener("change", () => show(theme()));

  const value = (row, index) => row.cells[index].dataset.value ?? row.cells[index].textContent.trim();
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    if (a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return a.localeCompare(b, "en", { numeric: true });
  };

  function sort(header) {
    const table = header.closest("table"), body = table.tBodies[0], index = header.cellIndex;
    const first = header.dataset.first || "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = header.getAttribute("aria-sort") === first ? other : first;
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row, place) => ({ row, place, key: value(row, index) }));
    rows.sort((a, b) => {
      if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "") || a.place - b.place; // unknown: last
      return sign * compare(a.key, b.key) || a.place - b.place;
    });
    body.append(...rows.map((item) => item.row));
  }

  function filter(form) {
    const table = document.getElementById(form.dataset.table), words = form.querySelector("[type=search]");
    const tier = form.querySelector("select"), count = form.querySelector("[role=status]");
    const wanted = words.value.trim().toLowerCase();
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const fits = row.dataset.text.includes(wanted) && (!tier.value || row.dataset.tier === tier.value);
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${table.tBodies[0].rows.length}`;
  }

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => { button.textContent = root.dataset.theme === "dark" ? "Light" : "Dark"; };
    label();
    button.hidden = false;
    button.addEventListener("click", () => {
      const next = root.dataset.theme === "dark" ? "light" : "dark";
      store.set("theme", next);
      show(next);
      label();
    });
    for (const header of document.querySelectorAll("th[data-sort]")) {
      const text = header.textContent;
      header.textContent = "";
      const control = document.createElement("button");
      control.type = "button";
      control.textContent = text;
      control.addEventListener("click", () => sort(header));
      header.append(control);
    }
    for (const form of document.querySelectorAll("form.filters")) {
      form.hidden = false;
      form.addEventListener("input", () => filter(form));
      form.addEventListener("submit", (event) => event.preventDefault());
      filter(form);
    }
  });
})();
