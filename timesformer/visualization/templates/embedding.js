"use strict";
// The map of the test clips: points whose clip is shown by the pointer, a touch, or the arrow keys.
addEventListener("DOMContentLoaded", () => {
  const read = id => JSON.parse(document.getElementById(id).textContent);
  const data = read("map-data"), sheet = read("map-sheet"), points = data.points;
  const box = document.getElementById("map"), tip = document.getElementById("tip"), text = document.getElementById("map-text");
  const chosen = document.getElementById("map-class"), onlyErrors = document.getElementById("map-errors");
  const rows = Math.ceil(points.length / data.columns), marks = [], margin = 14;
  const make = name => document.createElementNS("http://www.w3.org/2000/svg", name);
  const svg = make("svg"), ring = make("circle");
  let current = -1;
  box.append(svg);

  const isError = point => point.true !== point.predicted;
  const isShown = point => (chosen.value === "" || String(point.true) === chosen.value) && (!onlyErrors.checked || isError(point));
  const describe = point => (point.predicted < 0 ? [`true ${data.names[point.true]}`, "unreadable"] : [
    `true ${data.names[point.true]}`, `predicted ${data.names[point.predicted]} ${(100 * point.confidence).toFixed(1)} %`]);

  function layout() {
    const width = box.clientWidth, height = Math.min(width, 620), size = Math.min(width, height) - 2 * margin;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    marks.length = 0;
    const stretch = (width - 2 * margin) / size;  // a wide window spreads the points
    points.forEach(point => {
      const x = margin + point.x * size * stretch, y = margin + (1 - point.y) * size;
      let mark;
      if (isError(point)) {
        mark = make("path");
        mark.setAttribute("d", `M${x - 4} ${y - 4}l8 8m0 -8l-8 8`);
        mark.setAttribute("style", `stroke: ${data.colors[point.true]}; stroke-width: 2.6; fill: none`);
      } else {
        mark = make("circle");
        mark.setAttribute("cx", x);
        mark.setAttribute("cy", y);
        mark.setAttribute("r", 4);
        mark.setAttribute("style", `fill: ${data.colors[point.true]}`);
      }
      marks.push({ x, y, mark });
      svg.append(mark);
    });
    ring.setAttribute("r", 8.5);
    ring.setAttribute("style", "fill: none; stroke: var(--ink); stroke-width: 1.6");
    filter();
    show(-1);
  }

  function filter() {
    points.forEach((point, number) => marks[number].mark.setAttribute("opacity", isShown(point) ? 0.85 : 0.1));
  }

  function show(number) {
    current = number;
    ring.remove();
    tip.hidden = true;
    text.textContent = "";
    if (number < 0) return;
    const point = points[number], { x, y } = marks[number], picture = document.createElement("div"), zoom = 1.5;
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    svg.append(ring);
    const side = data.side * zoom, column = point.thumbnail % data.columns, row = Math.floor(point.thumbnail / data.columns);
    Object.assign(picture.style, {
      width: side + "px", height: side + "px", marginBottom: "4px", backgroundImage: `url(${sheet})`,
      backgroundSize: `${data.columns * side}px ${rows * side}px`, backgroundPosition: `${-column * side}px ${-row * side}px`,
    });
    const lines = [point.video, ...describe(point)];
    tip.replaceChildren(picture, ...lines.map(line => {
      const part = document.createElement("div");
      part.textContent = line;
      return part;
    }));
    text.textContent = lines.join("; ");
    tip.hidden = false;
    const frame = svg.getBoundingClientRect(), left = frame.left + x + 12, top = frame.top + y + 12;
    const wide = tip.offsetWidth, high = tip.offsetHeight;
    tip.style.left = Math.max(4, Math.min(left, innerWidth - wide - 6)) + "px";
    tip.style.top = Math.max(4, top + high > innerHeight ? top - high - 24 : top) + "px";
  }

  function near(event) {
    const frame = svg.getBoundingClientRect(), at = [event.clientX - frame.left, event.clientY - frame.top];
    let best = -1, least = event.pointerType === "touch" ? 26 : 14;
    marks.forEach(({ x, y }, number) => {
      const distance = Math.hypot(x - at[0], y - at[1]);
      if (distance < least && isShown(points[number])) [best, least] = [number, distance];
    });
    return best;
  }

  function step(by) {
    for (let tries = 1; tries <= points.length; tries++) {
      const number = (Math.max(current, by > 0 ? -1 : 0) + by * tries + points.length * 2) % points.length;
      if (isShown(points[number])) return show(number);
    }
  }

  box.addEventListener("pointermove", event => {
    const number = near(event);
    if (number !== current && event.pointerType !== "touch") show(number);
  });
  box.addEventListener("pointerdown", event => show(near(event)));
  box.addEventListener("pointerleave", event => event.pointerType !== "touch" && show(-1));
  box.addEventListener("blur", () => show(-1));
  box.addEventListener("keydown", event => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(-1);
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  for (const control of [chosen, onlyErrors]) control.addEventListener("change", () => (filter(), show(-1)));
  addEventListener("resize", layout);
  addEventListener("scroll", () => current >= 0 && show(-1));
  layout();
});
