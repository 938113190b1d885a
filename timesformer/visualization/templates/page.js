"use strict";
// The navigation: a link to each section.
for (const section of document.querySelectorAll("section[id]")) {
  const link = document.createElement("a");
  link.href = "#" + section.id;
  link.textContent = section.querySelector("h2").textContent;
  document.querySelector("nav div").append(link);
}
// Tables: a click on the heading of a column sorts by it, a second click reverses the order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent.trim() : cell.dataset.v === "" ? NaN : Number(cell.dataset.v);
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const text = typeof key(body.rows[0], column) === "string";
      const before = head.getAttribute("aria-sort"), first = text ? "ascending" : "descending";
      const now = before === first ? (text ? "descending" : "ascending") : first;
      const sign = now === "ascending" ? 1 : -1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", now);
      const rows = [...body.rows].map(row => [key(row, column), row]);
      rows.sort(([a], [b]) => {
        if (text) return sign * a.localeCompare(b, undefined, { numeric: true });
        return Number.isNaN(a) - Number.isNaN(b) || sign * (a - b) || 0; // rows without a value are always last
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
for (const input of document.querySelectorAll("input[data-filters]")) {
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of document.getElementById(input.dataset.filters).tBodies[0].rows)
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
  });
}
// Print leaves out what is folded, except for some parts.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details.printed:not([open])")];
  opened.forEach(part => (part.open = true));
});
addEventListener("afterprint", () => opened.forEach(part => (part.open = false)));

// The confusion matrix: a canvas that draws the part of the matrix that it is scrolled to. Printed, it is another one,
// large enough for all names.
(() => {
  const box = document.getElementById("matrix");
  if (!box) return;
  const data = JSON.parse(document.getElementById("matrix-data").textContent);
  const space = box.firstElementChild, canvas = space.firstElementChild, tip = document.getElementById("tip");
  const order = document.getElementById("order"), unit = document.getElementById("unit"), size = data.names.length;
  const screen = { paint: canvas.getContext("2d") };
  const counts = new Map(data.counts.map(([row, column, count]) => [row * size + column, count]));
  const letters = view => Math.min(11, view.cell * 0.95); // pixels
  let level = 1, place = [];
  const share = (row, count) => count / data.totals[row];
  screen.paint.font = "11px system-ui, sans-serif";
  const longest = Math.max(...data.names.map(name => screen.paint.measureText(name).width));

  // Sizes of the matrix that fits this width, enlarged; with the names of the classes where they are legible.
  function measure(width, enlarged = 1) {
    const margin = Math.min(longest + 12, width * 0.32, 240);
    const bare = (width - 22) / size, named = (width - margin - 16) / size;
    const cell = Math.min(named >= 9 ? named : bare, 64) * enlarged;
    return { cell, margin, written: cell >= 9, left: cell >= 9 ? margin + 16 : 22 };
  }

  // At level 1 the whole matrix is in the box, which has the same height at every level.
  function layout() {
    const whole = measure(box.clientWidth - 1);
    level = Math.max(1, Math.min(level, 34 / whole.cell));
    Object.assign(screen, measure(box.clientWidth - 1, level));
    box.style.height = whole.left + whole.cell * size + 3 + "px";
    space.style.width = space.style.height = screen.left + screen.cell * size + "px";
    const ratio = devicePixelRatio || 1, width = box.clientWidth, height = box.clientHeight;
    canvas.style.width = width + "px";
    canvas.style.height = height + "px";
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    screen.paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    show();
  }

  function show() {
    const style = getComputedStyle(document.documentElement);
    Object.assign(screen, { width: box.clientWidth, height: box.clientHeight, lines: screen.cell >= 7 });
    Object.assign(screen, { x0: screen.left - box.scrollLeft, y0: screen.left - box.scrollTop });
    draw(screen, name => style.getPropertyValue("--" + name).trim());
  }

  function clipped(paint, text, width) {
    if (paint.measureText(text).width <= width) return text;
    while (text && paint.measureText(text + "…").width > width) text = text.slice(0, -1);
    return text + "…";
  }

  function draw(view, color) {
    const { paint, cell, left, margin, width, height, x0, y0 } = view, ink = color("ink"), card = color("card");
    paint.fillStyle = card;
    paint.fillRect(0, 0, width, height);
    paint.strokeStyle = color("line");
    paint.lineWidth = 0.5;
    if (view.lines) {
      paint.beginPath();
      for (let line = 0; line <= size; line++) {
        paint.moveTo(x0 + line * cell, Math.max(y0, left)); paint.lineTo(x0 + line * cell, y0 + size * cell);
        paint.moveTo(Math.max(x0, left), y0 + line * cell); paint.lineTo(x0 + size * cell, y0 + line * cell);
      }
      paint.stroke();
    }
    paint.textAlign = "center";
    paint.textBaseline = "middle";
    for (const [pair, count] of counts) {
      const row = Math.floor(pair / size), column = pair % size;
      const x = x0 + place[column] * cell, y = y0 + place[row] * cell;
      if (x + cell < left || y + cell < left || x > width || y > height) continue;
      const strength = 0.16 + 0.84 * Math.sqrt(share(row, count)), wide = Math.max(cell, 1.6);
      paint.globalAlpha = strength;
      paint.fillStyle = color(row === column ? "good" : "bad");
      paint.fillRect(x, y, wide, wide);
      paint.globalAlpha = 1;
      if (cell >= 16) {
        paint.font = `${Math.min(12, cell * 0.42)}px system-ui, sans-serif`;
        paint.fillStyle = strength > 0.6 ? card : ink;
        const text = unit.value === "counts" ? count : Math.round(100 * share(row, count));
        paint.fillText(text, x + cell / 2, y + cell / 2 + 0.5);
      }
    }
    paint.fillStyle = card;
    paint.fillRect(0, 0, left, height);
    paint.fillRect(0, 0, width, left);
    paint.font = `${letters(view)}px system-ui, sans-serif`;
    if (view.written) {
      paint.fillStyle = ink;
      for (let number = 0; number < size; number++) {
        const at = (place[number] + 0.5) * cell, name = clipped(paint, data.names[number], margin - 6);
        if (y0 + at > left && y0 + at < height) {
          paint.textAlign = "right";
          paint.fillText(name, left - 5, y0 + at);
        }
        if (x0 + at > left && x0 + at < width) {
          paint.save();
          paint.translate(x0 + at, left - 5);
          paint.rotate(-Math.PI / 2);
          paint.textAlign = "left";
          paint.fillText(name, 0, 0);
          paint.restore();
        }
      }
    }
    paint.font = "11px system-ui, sans-serif";
    paint.fillStyle = color("muted");
    paint.textAlign = "left";
    paint.fillText("predicted class →", left, 9);
    paint.save();
    paint.translate(9, left + 92);
    paint.rotate(-Math.PI / 2);
    paint.fillText("← true class", 0, 0);
    paint.restore();
  }

  function arrange() {
    place = [];
    data.orders[order.value].forEach((number, at) => (place[number] = at));
    show();
  }

  function zoom(factor) {
    const { cell, left } = screen, center = [box.scrollLeft + box.clientWidth / 2, box.scrollTop + box.clientHeight / 2];
    const middle = center.map(at => (at - left) / cell);
    level *= factor;
    layout();
    const [x, y] = middle.map(at => at * screen.cell + screen.left);
    box.scrollTo(x - box.clientWidth / 2, y - box.clientHeight / 2);
  }

  function tell(event) {
    const frame = canvas.getBoundingClientRect(), { cell, left } = screen;
    const column = Math.floor((event.clientX - frame.left - left + box.scrollLeft) / cell);
    const row = Math.floor((event.clientY - frame.top - left + box.scrollTop) / cell);
    const sequence = data.orders[order.value];
    const inside = event.clientX - frame.left >= left && event.clientY - frame.top >= left;
    tip.hidden = !(inside && column >= 0 && row >= 0 && column < size && row < size);
    if (tip.hidden) return;
    const truth = sequence[row], guess = sequence[column], count = counts.get(truth * size + guess) || 0;
    const of = data.totals[truth];
    tip.replaceChildren();
    const line = (text, name) => {
      const strong = document.createElement("b"), part = document.createElement("div");
      strong.textContent = name;
      part.append(text, strong);
      tip.append(part);
    };
    line("true ", data.names[truth]);
    line("predicted ", data.names[guess]);
    line("", of ? `${count} of ${of} (${(100 * count / of).toFixed(1)} %)` : "no videos");
    const wide = tip.offsetWidth, high = tip.offsetHeight;
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - wide - 6)) + "px";
    tip.style.top = (event.clientY + 16 + high > innerHeight ? event.clientY - high - 12 : event.clientY + 16) + "px";
  }

  // The page scales this canvas to its width. Browsers limit canvases to 4096 pixels or more.
  function drawSheet() {
    const colors = { ink: "#000", card: "#fff", line: "#bbb", muted: "#444", good: "#1d4fd7", bad: "#c2410c" };
    const names = Math.min(longest + 12, 240) + 18, width = Math.max(names + size * 11, Math.min(720, names + size * 44));
    const ratio = Math.min(3, 4096 / width);
    const sheet = document.createElement("canvas"), view = { paint: sheet.getContext("2d"), ...measure(width) };
    Object.assign(view, { width: view.left + view.cell * size + 1, x0: view.left, y0: view.left });
    Object.assign(view, { height: view.width, lines: size <= 101 });
    sheet.className = "sheet";
    sheet.width = sheet.height = view.width * ratio;
    sheet.style.maxWidth = view.width + "px";
    view.paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw(view, name => colors[name]);
    box.append(sheet);
  }

  order.addEventListener("change", arrange);
  unit.addEventListener("change", show);
  document.getElementById("zoom-in").addEventListener("click", () => zoom(1.6));
  document.getElementById("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
  document.getElementById("zoom-fit").addEventListener("click", () => zoom(0));
  box.addEventListener("scroll", show);
  canvas.addEventListener("pointermove", tell);
  canvas.addEventListener("pointerdown", tell);
  canvas.addEventListener("pointerleave", () => (tip.hidden = true));
  addEventListener("resize", layout);
  addEventListener("beforeprint", drawSheet);
  addEventListener("afterprint", () => box.querySelector(".sheet").remove());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  data.orders[order.value].forEach((number, at) => (place[number] = at));
  layout();
})();
