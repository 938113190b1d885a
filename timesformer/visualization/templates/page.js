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
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach(part => (part.open = true));
});
addEventListener("afterprint", () => opened.forEach(part => (part.open = false)));

// The confusion matrix: a canvas that draws the part of the matrix that it is scrolled to.
(() => {
  const box = document.getElementById("matrix");
  if (!box) return;
  const data = JSON.parse(document.getElementById("matrix-data").textContent);
  const space = box.firstElementChild, canvas = space.firstElementChild, tip = document.getElementById("tip");
  const order = document.getElementById("order"), size = data.names.length, paint = canvas.getContext("2d");
  paint.font = "11px system-ui, sans-serif";
  const counts = new Map(data.counts.map(([row, column, count]) => [row * size + column, count]));
  let cell = 0, level = 1, margin = 0, place = [], left = 0;
  const share = (row, count) => count / data.totals[row];
  const written = () => cell >= 10;

  // At level 1 the whole matrix fits the box, with the names of the classes where they are legible.
  function layout() {
    const longest = Math.max(...data.names.map(name => paint.measureText(name).width));
    margin = Math.min(longest + 12, box.clientWidth * 0.28, 180);
    const bare = (box.clientWidth - 22) / size, named = (box.clientWidth - margin - 16) / size;
    const fitting = Math.min(named >= 10 ? named : bare, 64);
    level = Math.max(1, Math.min(level, 34 / fitting));
    cell = fitting * level;
    left = written() ? margin + 16 : 22;
    box.style.height = Math.min(Math.max(320, innerHeight * 0.8), left + cell * size + 2) + "px";
    space.style.width = space.style.height = left + cell * size + "px";
    const ratio = devicePixelRatio || 1, width = box.clientWidth, high = box.clientHeight;
    canvas.style.width = width + "px";
    canvas.style.height = high + "px";
    canvas.width = width * ratio;
    canvas.height = high * ratio;
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.font = "11px system-ui, sans-serif";
    draw();
  }

  function clipped(text, width) {
    if (paint.measureText(text).width <= width) return text;
    while (text && paint.measureText(text + "…").width > width) text = text.slice(0, -1);
    return text + "…";
  }

  function draw() {
    const style = getComputedStyle(document.documentElement), color = name => style.getPropertyValue(name).trim();
    const width = box.clientWidth, height = box.clientHeight, x0 = left - box.scrollLeft, y0 = left - box.scrollTop;
    const ink = color("--ink"), card = color("--card");
    paint.fillStyle = card;
    paint.fillRect(0, 0, width, height);
    paint.strokeStyle = color("--line");
    paint.lineWidth = 0.5;
    if (cell >= 7) {
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
      paint.fillStyle = color(row === column ? "--good" : "--bad");
      paint.fillRect(x, y, wide, wide);
      paint.globalAlpha = 1;
      if (cell >= 19) {
        paint.font = `${Math.min(12, cell * 0.42)}px system-ui, sans-serif`;
        paint.fillStyle = strength > 0.6 ? card : ink;
        paint.fillText(count, x + cell / 2, y + cell / 2 + 0.5);
      }
    }
    paint.fillStyle = card;
    paint.fillRect(0, 0, left, height);
    paint.fillRect(0, 0, width, left);
    paint.font = "11px system-ui, sans-serif";
    if (written()) {
      paint.fillStyle = ink;
      for (let number = 0; number < size; number++) {
        const at = (place[number] + 0.5) * cell, name = clipped(data.names[number], margin - 6);
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
    paint.fillStyle = color("--muted");
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
    draw();
  }

  function zoom(factor) {
    const middle = [box.scrollLeft + box.clientWidth / 2, box.scrollTop + box.clientHeight / 2].map(at => (at - left) / cell);
    level *= factor;
    layout();
    box.scrollTo(middle[0] * cell + left - box.clientWidth / 2, middle[1] * cell + left - box.clientHeight / 2);
  }

  function tell(event) {
    const frame = canvas.getBoundingClientRect();
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

  order.addEventListener("change", arrange);
  document.getElementById("zoom-in").addEventListener("click", () => zoom(1.6));
  document.getElementById("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
  document.getElementById("zoom-fit").addEventListener("click", () => zoom(0));
  box.addEventListener("scroll", draw);
  canvas.addEventListener("pointermove", tell);
  canvas.addEventListener("pointerdown", tell);
  canvas.addEventListener("pointerleave", () => (tip.hidden = true));
  addEventListener("resize", layout);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  data.orders[order.value].forEach((number, at) => (place[number] = at));
  layout();
})();
