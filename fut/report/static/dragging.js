"use strict";
/* Dragging cards of a grid by mouse, pen or finger. A finger has to rest on a card first, so that the page still scrolls. */

const REST = 180; // milliseconds that a finger rests before its card is lifted
const SLACK = 6; // pixels that a pointer may tremble
const EDGE = 56; // pixels from the window's edge where dragging scrolls the page

/* asked: { tapped(card), start(card) -> step, over(from, to), drop(), cancel() } */
function dragging(grid, asked) {
  let press = null; // { card, x, y, timer } from pointerdown on
  let drag = null; // { from, to, slots, ghost } once a card moves
  let quiet = false; // whether the click that ends a drag is still to come

  const at = (event) => ({ x: event.clientX + scrollX, y: event.clientY + scrollY });

  function begin(event) {
    clearTimeout(press.timer);
    const button = press.button;
    const box = button.getBoundingClientRect();
    const ghost = button.cloneNode(true);
    ghost.classList.add("ghost");
    ghost.removeAttribute("data-card");
    ghost.tabIndex = -1;
    ghost.setAttribute("aria-hidden", "true");
    Object.assign(ghost.style, { width: `${box.width}px`, height: `${box.height}px` });
    document.body.append(ghost);
    const slots = Array.from(grid.children, (item) => {
      const { left, top, width, height } = item.getBoundingClientRect();
      return { x: left + scrollX + width / 2, y: top + scrollY + height / 2 };
    });
    const from = asked.start(Number(button.dataset.card));
    drag = { from, to: from, slots, ghost, dx: press.x - box.left, dy: press.y - box.top, last: event };
    grid.classList.add("dragging");
    follow(event);
    requestAnimationFrame(scroll);
  }

  function follow(event) {
    drag.last = event;
    drag.ghost.style.transform = `translate(${event.clientX - drag.dx}px, ${event.clientY - drag.dy}px)`;
    const here = at(event);
    const far = drag.slots.map((slot) => Math.hypot(slot.x - here.x, slot.y - here.y));
    const to = far.indexOf(Math.min(...far));
    if (to === drag.to) return;
    drag.to = to;
    asked.over(drag.from, to);
  }

  function scroll() {
    if (!drag) return;
    const { clientY } = drag.last;
    const by = clientY < EDGE ? clientY - EDGE : clientY > innerHeight - EDGE ? clientY - innerHeight + EDGE : 0;
    if (by) {
      scrollBy(0, by / 4);
      follow(drag.last);
    }
    requestAnimationFrame(scroll);
  }

  function end(dropped) {
    if (press) clearTimeout(press.timer);
    press = null;
    if (!drag) return;
    drag.ghost.remove();
    grid.classList.remove("dragging");
    drag = null;
    quiet = true;
    setTimeout(() => (quiet = false), 0);
    if (dropped) asked.drop();
    else asked.cancel();
  }

  grid.addEventListener("pointerdown", (event) => {
    const button = event.target.closest(".card");
    if (!button || event.button !== 0 || !event.isPrimary) return;
    press = { button, x: event.clientX, y: event.clientY, finger: event.pointerType === "touch" };
    if (press.finger) press.timer = setTimeout(() => press && !drag && begin(event), REST);
  });
  addEventListener("pointermove", (event) => {
    if (!press || !event.isPrimary) return;
    if (drag) return follow(event);
    if (Math.hypot(event.clientX - press.x, event.clientY - press.y) < SLACK) return;
    if (press.finger) end(false);
    else begin(event);
  });
  addEventListener("pointerup", (event) => event.isPrimary && end(true));
  addEventListener("pointercancel", (event) => event.isPrimary && end(false));
  addEventListener("keydown", (event) => event.key === "Escape" && drag && end(false), true);
  grid.addEventListener("touchmove", (event) => drag && event.preventDefault(), { passive: false });
  grid.addEventListener("contextmenu", (event) => press && press.finger && event.preventDefault());
  grid.addEventListener("dragstart", (event) => event.preventDefault());
  grid.addEventListener("click", (event) => {
    const button = event.target.closest(".card");
    if (button && !quiet) asked.tapped(Number(button.dataset.card));
  });
}
