// Makes the rows of tables sortable: ascending, descending, and back. Without it the page reads the same.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], original = [...body.rows], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const text = (row) => row.cells[column].textContent.trim(), number = (row) => parseFloat(text(row).replace(/[,<]/g, ""));
    const words = head.classList.contains("left") || original.every((row) => isNaN(number(row)));
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const first = words ? "ascending" : "descending", second = words ? "descending" : "ascending";
      const now = before === null ? first : before === first ? second : null;
      for (const other of heads) other.removeAttribute("aria-sort");
      const rows = [...original], sign = now === "descending" ? -1 : 1;
      if (now !== null) {
        head.setAttribute("aria-sort", now);
        rows.sort((one, other) => {
          if (words) return sign * text(one).localeCompare(text(other), undefined, { numeric: true });
          const a = number(one), b = number(other);
          return isNaN(a) || isNaN(b) ? isNaN(a) - isNaN(b) : sign * (a - b);
        });
      }
      body.append(...rows);
    });
  });
}
// What is wider than the window is scrolled with the arrow keys once it has the focus.
const reachable = () => {
  for (const part of document.querySelectorAll(".scroll, .plot")) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
};
addEventListener("resize", reachable);
reachable();
