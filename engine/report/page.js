"use strict";
for (const button of document.querySelectorAll(".sortable thead button")) button.addEventListener("click", sort);
for (const picture of document.querySelectorAll("img.matrix")) picture.addEventListener("pointermove", point);

function sort() {
  const head = this.parentElement, table = head.closest("table"), body = table.tBodies[0];
  const column = head.cellIndex, number = head.classList.contains("number");
  const first = number ? "descending" : "ascending", second = number ? "ascending" : "descending";
  const order = head.getAttribute("aria-sort") === first ? second : first;
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const keyed = Array.from(body.rows, (row) => {
    const cell = row.cells[column], text = cell.dataset.v ?? cell.textContent;
    return { row, key: text !== "" && number ? Number(text) : text };
  });
  keyed.sort((a, b) => {
    if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");  // without a value: last
    return sign * (number ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true }));
  });
  body.append(...keyed.map(({ row }) => row));
}

function point(event) {
  const order = this.dataset.order.split(" "), box = this.getBoundingClientRect();
  const article = this.closest("article");
  const at = (share) => order[Math.min(order.length - 1, Math.max(0, Math.floor(share * order.length)))];
  const name = (label) => article.querySelector(`tr[data-label="${label}"]`).cells[0].textContent;
  const row = at((event.clientY - box.top) / box.height), column = at((event.clientX - box.left) / box.width);
  article.querySelector(".cell").textContent = `${name(row)}, taken for ${name(column)}`;
}
