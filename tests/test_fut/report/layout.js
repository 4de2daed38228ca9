/* Faults of the charts and tables of an open page: labels cut, crossed by a line, or on one another; ticks that repeat; tables cut. */
() => {
  const faults = [];
  document.querySelectorAll("details").forEach((d) => (d.open = true));
  const meets = (box, a, b) => {
    for (let i = 0; i <= 64; i += 1) {
      const x = a.x + ((b.x - a.x) * i) / 64, y = a.y + ((b.y - a.y) * i) / 64;
      if (x > box.left + 1 && x < box.right - 1 && y > box.top + 2 && y < box.bottom - 2) return true;
    }
    return false;
  };
  const ends = (e) => {
    const m = e.getScreenCTM(), at = (x, y) => ({ x: x * m.a + m.e, y: y * m.d + m.f });
    if (e.tagName === "polyline") return Array.from(e.points, (p) => at(p.x, p.y));
    return [at(e.x1.baseVal.value, e.y1.baseVal.value), at(e.x2.baseVal.value, e.y2.baseVal.value)];
  };
  for (const svg of document.querySelectorAll("svg.chart")) {
    const frame = svg.getBoundingClientRect(), where = svg.closest("section").id;
    const texts = Array.from(svg.querySelectorAll("text")).filter((t) => t.textContent.trim());
    const lines = Array.from(svg.querySelectorAll("line, polyline"));
    for (const t of texts) {
      const box = t.getBoundingClientRect(), said = `${where}: ${t.textContent}`;
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
        faults.push(`${said}: cut`);
      const style = getComputedStyle(t);
      const shielded = style.paintOrder.startsWith("stroke") && parseFloat(style.strokeWidth) >= 4;
      for (const l of lines) {
        const behind = l.compareDocumentPosition(t) & Node.DOCUMENT_POSITION_FOLLOWING;
        if (shielded && behind) continue;
        const points = ends(l);
        if (points.slice(1).some((p, i) => meets(box, points[i], p))) faults.push(`${said}: crossed by ${l.getAttribute("class")}`);
      }
      for (const u of texts) {
        const other = u.getBoundingClientRect();
        if (t !== u && box.left < other.right - 1 && other.left < box.right - 1 && box.top < other.bottom - 2 && other.top < box.bottom - 2)
          faults.push(`${said}: on ${u.textContent}`);
      }
    }
    for (const anchor of ["middle", "end"]) {
      const ticks = Array.from(svg.querySelectorAll(`.axis text[text-anchor="${anchor}"]:not(.label)`), (t) => t.textContent);
      if (new Set(ticks).size < ticks.length) faults.push(`${where}: ticks ${ticks}`);
    }
  }
  for (const box of document.querySelectorAll(".scroll"))
    if (box.scrollWidth > box.clientWidth + 1) faults.push(`${box.closest("section").id}: table ${box.getAttribute("aria-label")} cut`);
  return faults;
}
