"use strict";
/* Values under the pointer, or under the keyboard's cursor, of charts (their dots) and heatmaps (their cells). */

const tip = document.getElementById("tip");

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = !text;
  const { width, height } = tip.getBoundingClientRect();
  const room = document.documentElement.clientWidth;
  tip.style.left = `${Math.max(4, Math.min(x + 12, room - width - 4))}px`;
  tip.style.top = `${y - height - 12 > 4 ? y - height - 12 : y + 18}px`;
}

function explore(svg, targets, textOf, boxOf) {
  let at = -1;
  const move = (i) => {
    at = i;
    targets.mark(i);
    if (i < 0) return showTip("", 0, 0);
    const box = boxOf(i);
    showTip(textOf(i), box.x, box.y);
  };
  svg.addEventListener("pointermove", (event) => move(targets.near(event)));
  svg.addEventListener("pointerdown", (event) => move(targets.near(event)));
  svg.addEventListener("pointerleave", () => move(-1));
  svg.addEventListener("blur", () => move(-1));
  svg.addEventListener("keydown", (event) => {
    const next = event.key === "Escape" ? -1 : targets.next(at, event.key);
    if (next === undefined) return;
    event.preventDefault();
    move(next);
  });
}

function point(svg, x, y) {
  const matrix = svg.getScreenCTM();
  return { x: x * matrix.a + matrix.e, y: y * matrix.d + matrix.f };
}

function inside(svg, event) {
  const matrix = svg.getScreenCTM();
  return { x: (event.clientX - matrix.e) / matrix.a, y: (event.clientY - matrix.f) / matrix.d };
}

for (const svg of document.querySelectorAll("svg[data-dots]")) {
  const dots = Array.from(svg.querySelectorAll("[data-tip]"));
  const places = dots.map((dot) => ({ x: Number(dot.getAttribute("cx")), y: Number(dot.getAttribute("cy")) }));
  dots.forEach((dot) => dot.querySelector("title").remove());
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const byX = dots.map((_, i) => i).sort((a, b) => places[a].x - places[b].x);
  const targets = {
    mark: (i) => dots.forEach((dot, j) => dot.classList.toggle("at", i === j)),
    near: (event) => {
      const here = inside(svg, event);
      const far = places.map((p) => Math.hypot(p.x - here.x, p.y - here.y));
      const best = far.indexOf(Math.min(...far));
      return far[best] < 14 ? best : -1;
    },
    next: (at, key) => {
      if (!(key in step) || !dots.length) return undefined;
      const rank = byX.indexOf(at);
      return byX[Math.max(0, Math.min(dots.length - 1, rank < 0 ? 0 : rank + step[key]))];
    },
  };
  explore(svg, targets, (i) => dots[i].dataset.tip, (i) => point(svg, places[i].x, places[i].y));
}

for (const svg of document.querySelectorAll("svg[data-cells]")) {
  const held = JSON.parse(document.getElementById(svg.dataset.cells).textContent);
  const values = unpack(held.values, 4);
  const [rows, columns] = held.shape;
  const [left, top, right, bottom] = svg.dataset.box.split(" ").map(Number);
  const cursor = svg.querySelector(".cursor");
  const size = { x: (right - left) / columns, y: (bottom - top) / rows };
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  const targets = {
    mark: (i) => {
      cursor.style.display = i < 0 ? "none" : "inline";
      cursor.setAttribute("x", left + (i % columns) * size.x);
      cursor.setAttribute("y", top + Math.floor(i / columns) * size.y);
    },
    near: (event) => {
      const here = inside(svg, event);
      const column = Math.floor((here.x - left) / size.x);
      const row = Math.floor((here.y - top) / size.y);
      return column >= 0 && column < columns && row >= 0 && row < rows ? row * columns + column : -1;
    },
    next: (at, key) => {
      if (!(key in step)) return undefined;
      const next = at < 0 ? 0 : at + step[key];
      return next >= 0 && next < rows * columns ? next : at;
    },
  };
  const text = (i) => {
    const where = `${held.row} ${held.names[Math.floor(i / columns)]} at step ${i % columns}`;
    const value = values[i];
    return Number.isFinite(value) ? `${where}\n${written(value / held.factor, 3, true)} ${held.unit}` : `${where}\nunknown`;
  };
  explore(svg, targets, text, (i) =>
    point(svg, left + ((i % columns) + 0.5) * size.x, top + (Math.floor(i / columns) + 0.5) * size.y));
}
