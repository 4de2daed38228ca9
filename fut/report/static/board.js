"use strict";
/* The what-if board: cards for batches in their steps, moved by pointer, touch, keys or buttons. */

function startBoard(data) {
  const element = (id) => document.getElementById(id);
  const steps = data.classes.length;
  const distance = new Distance(data.content, data.epochs);
  const tables = data.tables.map((table) => new Table(table, data.classes, distance));
  const main = tables[0];
  const centred = rowCentred(main);
  const grid = element("cards");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const cards = data.cards.map(makeCard);

  let order = data.cards.map((_, card) => card); // what is shown
  let settled = order; // what Escape goes back to
  let past = []; // what undo goes back to
  let lifted = -1; // the card that keys or taps are moving
  let held = 0; // the card that the tab key reaches
  let drawn = -1; // the last random order shown

  function make(tag, look, text = "") {
    const made = document.createElement(tag);
    if (look) made.className = look;
    made.textContent = text;
    return made;
  }

  function makeCard(card, number) {
    const item = make("li");
    const button = make("button", "card");
    button.type = "button";
    button.dataset.card = number;
    const parts = [make("span", "slot"), make("span", "name", card.name), make("span", "excerpt", card.excerpt)];
    button.append(...parts, make("span", "worth"));
    item.append(button);
    return item;
  }

  /* --- showing */

  function show(next) {
    const before = calm.matches ? null : cards.map((card) => card.getBoundingClientRect());
    const focused = document.activeElement;
    order = next;
    order.forEach((card, step) => {
      if (grid.children[step] !== cards[card]) grid.insertBefore(cards[card], grid.children[step] || null);
    });
    if (grid.contains(focused)) focused.focus({ preventScroll: true }); // a moved element loses it
    order.forEach(showCard);
    if (before) slide(before);
    showReadings();
  }

  function showCard(card, step) {
    const button = cards[card].firstChild;
    const gain = centred[step * steps + card] - centred[card * steps + card];
    const share = Math.max(-1, Math.min(1, gain / data.limit));
    const number = card === step ? "" : written(gain / data.factor, 2, true);
    button.style.setProperty("--share", Math.abs(share).toFixed(3));
    button.dataset.sign = share < 0 ? "low" : share > 0 ? "high" : "";
    button.classList.toggle("lifted", card === lifted);
    button.setAttribute("aria-pressed", String(card === lifted));
    button.tabIndex = card === held ? 0 : -1;
    button.querySelector(".slot").textContent = `step ${step}`;
    button.querySelector(".worth").textContent = number;
  }

  function slide(before) {
    cards.forEach((card, i) => {
      const now = card.getBoundingClientRect();
      const [x, y] = [before[i].left - now.left, before[i].top - now.top];
      if (x || y) card.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], 140);
    });
  }

  function setData(id, value, text) {
    element(id).value = value === null ? "" : String(value);
    element(id).textContent = text;
  }

  function showReadings() {
    const found = main.predict(order);
    const [low, high] = found.interval || [null, null];
    setData("predicted", found.value, amount(found.value, main.unit, false));
    setData("delta", found.delta, amount(found.delta, main.unit, true));
    setData("low", low, low === null ? "" : amount(low, main.unit, false));
    setData("high", high, high === null ? "" : amount(high, main.unit, false));
    if (element("uncalibrated")) setData("uncalibrated", main.sum(order), amount(main.sum(order), main.unit, true));
    element("interval").hidden = low === null || found.known;
    element("no-interval").hidden = low !== null || found.known;
    element("in-truth").hidden = !found.known;
    if (element("perplexity")) setData("perplexity", Math.exp(found.value), written(Math.exp(found.value), 4, false));
    showTruth(found.known);
    showGauge(found);
    for (const [i, row] of Array.from(document.querySelectorAll("#readouts tbody tr")).entries()) showRow(row, tables[i]);
    element("order-text").value = order.join(", ");
    element("order-error").textContent = "";
    element("basis").textContent = basisOf(found)[1];
    element("command").textContent = commandFor(order, found.edit);
    element("undo").disabled = !past.length;
  }

  function showTruth(known) {
    const truth = known ? main.reference : data.truths[order.map((card) => data.classes[card]).join(",")];
    element("truth").hidden = truth === undefined;
    element("no-truth").hidden = truth !== undefined;
    if (truth === undefined) return;
    setData("retrained", truth, amount(truth, main.unit, false));
    setData("retrained-delta", truth - main.reference, amount(truth - main.reference, main.unit, true));
  }

  function showRow(row, table) {
    const found = table.predict(order);
    const [value, delta, interval, perplexity] = row.querySelectorAll("data");
    row.querySelector(".basis").textContent = basisOf(found)[0] || "–";
    [value.value, value.textContent] = [found.value, amount(found.value, table.unit, false)];
    [delta.value, delta.textContent] = [found.delta, amount(found.delta, table.unit, true)];
    const ends = found.interval ? found.interval.map((end) => amount(end, table.unit, false)) : [];
    [interval.value, interval.textContent] = [found.interval || "", found.known ? "the truth" : ends.join(" … ") || "none"];
    if (!perplexity) return;
    [perplexity.value, perplexity.textContent] = [Math.exp(found.value), written(Math.exp(found.value), 4, false)];
  }

  function showGauge(found) {
    const gauge = element("gauge");
    if (!gauge) return;
    const [low, high, start, end, factor] = gauge.dataset.axis.split(" ").map(Number);
    const place = (value) => {
      const share = ((value - main.reference) / factor - low) / (high - low);
      return start + Math.max(0, Math.min(1, share)) * (end - start);
    };
    const set = (id, names) => Object.entries(names).forEach(([name, to]) => element(id).setAttribute(name, to.toFixed(2)));
    set("gauge-now", { x1: place(found.value), x2: place(found.value) });
    set("gauge-now-head", { cx: place(found.value) });
    const [from, to] = found.interval || [found.value, found.value];
    set("gauge-interval", { x1: place(from), x2: place(to) });
  }

  function commandFor(cards, edit) {
    if (edit) return `fut whatif ${data.run} --${edit[0]} ${edit[1]},${edit[2]} --estimator positions`;
    if (data.single) return `fut estimate ${data.run} --order ${cards.map((card) => data.cards[card].items[0]).join(",")} --estimator positions`;
    const listed = JSON.stringify(cards.map((card) => data.cards[card].items));
    return `fut estimate ${data.run} --order order.json --estimator positions   # order.json: ${listed}`;
  }

  function inWords() {
    const { value, delta } = main.predict(order);
    const unit = main.unit && main.unit !== "loss" ? ` ${main.unit}` : "";
    const side = delta < 0 ? "below" : "above";
    const than = delta === 0 ? "as the reference order" : `${amount(Math.abs(delta), main.unit, false)} ${side} the reference order`;
    return `Predicted ${amount(value, main.unit, false)}${unit}, ${than}.`;
  }

  let saying = 0;
  function say(text) {
    clearTimeout(saying);
    saying = setTimeout(() => (element("live").textContent = text), 120);
  }

  function showDetail(card) {
    const step = order.indexOf(card);
    const { name, about, items, cut } = data.cards[card];
    element("detail-name").textContent = `${name}, now at step ${step}`;
    element("detail-about").textContent = about;
    const all = items.flatMap((item) => data.texts[item] || []);
    element("detail-text").replaceChildren(...all.map((text) => make("p", "", text)));
    if (cut) element("detail-text").append(make("p", "note", "… shortened"));
    element("detail-text").hidden = !all.length;
    showProfile(card, step);
  }

  /* What moving the card to each step, all others kept in order, would add to the order shown. */
  function showProfile(card, from) {
    const bars = element("profile").querySelectorAll("rect");
    const now = main.sum(order);
    const sums = order.map((_, to) => (to === from ? 0 : main.sum(moved(order, from, to)) - now));
    const reach = Math.max(...sums.map(Math.abs), 1e-300);
    sums.forEach((sum, to) => {
      const tall = (Math.abs(sum) / reach) * 30;
      bars[to].setAttribute("height", Math.max(tall, 0.4).toFixed(2));
      bars[to].setAttribute("y", (sum < 0 ? 32 : 32 - tall).toFixed(2));
      bars[to].setAttribute("class", `${sum < 0 ? "low" : "high"}${to === from ? " here" : ""}`);
    });
    const best = sums.indexOf(Math.min(...sums));
    const change = amount(sums[best], main.unit, true);
    element("profile-said").textContent =
      best === from
        ? "No step predicts less for this batch than the one where it is."
        : `Least when moved to step ${best}: ${change} against the order shown${main.fit || Object.keys(main.edits).length ? ", before calibration" : ""}.`;
  }

  /* --- changing */

  function change(next, said) {
    if (next.join() !== settled.join()) past.push(settled);
    settled = next;
    show(next);
    say(`${said} ${inWords()}`);
  }

  function place(from, to) {
    const swap = element("swap-mode").checked;
    return swap ? swapped(settled, from, to) : moved(settled, from, to);
  }

  function lift(card) {
    lifted = card;
    held = card;
    show(settled);
    showDetail(card);
    say(`${data.cards[card].name} lifted from step ${settled.indexOf(card)}. Tap its new place, or move it by arrows; Enter puts it down, Escape puts it back.`);
  }

  function putDown(next) {
    const card = lifted;
    lifted = -1;
    change(next, `${data.cards[card].name} put down at step ${next.indexOf(card)}.`);
    showDetail(card);
  }

  function putBack() {
    lifted = -1;
    show(settled);
    say(`Put back. ${inWords()}`);
  }

  function hold(card) {
    held = card;
    order.forEach(showCard);
    cards[card].firstChild.focus();
  }

  function keyed(event) {
    const columns = Math.max(1, getComputedStyle(grid).gridTemplateColumns.split(" ").length);
    const ways = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -steps, End: steps };
    if (event.key === "Escape" && lifted >= 0) {
      event.preventDefault();
      return putBack();
    }
    if (!(event.key in ways) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const bounded = (step) => Math.max(0, Math.min(steps - 1, step));
    if (lifted < 0) return hold(order[bounded(order.indexOf(held) + ways[event.key])]);
    const to = bounded(order.indexOf(lifted) + ways[event.key]);
    show(place(settled.indexOf(lifted), to));
    showDetail(lifted);
    cards[lifted].firstChild.scrollIntoView({ block: "nearest" });
    say(`${data.cards[lifted].name} at step ${to}. ${inWords()}`);
  }

  function tapped(card) {
    if (lifted < 0) return lift(card);
    if (lifted === card) return putDown(order);
    putDown(place(settled.indexOf(lifted), settled.indexOf(card)));
  }

  grid.append(...cards);
  grid.addEventListener("keydown", keyed);
  grid.addEventListener("focusin", (event) => {
    const card = Number(event.target.dataset.card);
    if (lifted < 0 && card !== held) {
      held = card;
      order.forEach(showCard);
    }
    showDetail(card);
  });
  grid.addEventListener("pointerover", (event) => {
    const over = event.target.closest(".card");
    if (over && lifted < 0 && event.pointerType === "mouse") showDetail(Number(over.dataset.card));
  });
  dragging(grid, {
    tapped,
    start: (card) => {
      if (lifted >= 0) putBack();
      lifted = card;
      showDetail(card);
      return settled.indexOf(card);
    },
    over: (from, to) => {
      show(place(from, to));
      showDetail(lifted);
    },
    drop: () => putDown(order),
    cancel: putBack,
  });

  const press = (id, action) => element(id).addEventListener("click", action);
  const arrange = (next, said) => {
    lifted = -1;
    change(next, said);
  };
  press("undo", () => {
    if (!past.length) return;
    settled = past.pop();
    lifted = -1;
    show(settled);
    say(`Undone. ${inWords()}`);
  });
  press("reverse", () => arrange(settled.slice().reverse(), "Reversed."));
  press("random", () => {
    drawn = (drawn + 1) % data.random.length;
    arrange(data.random[drawn].order, `Random order, ${data.random[drawn].name}.`);
  });
  element("arrange").addEventListener("change", (event) => {
    const chosen = data.arrangements[Number(event.target.value)];
    if (chosen) arrange(chosen.order, `Arranged: ${chosen.name}.`);
    event.target.selectedIndex = 0;
  });
  element("order-form").addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      arrange(parsed(element("order-text").value, steps), "Order read.");
    } catch (error) {
      element("order-error").textContent = error.message;
    }
  });
  for (const button of document.querySelectorAll(".to-board")) {
    button.addEventListener("click", () => {
      arrange(button.dataset.order.split(",").map(Number), "The order found by a search.");
      element("board").scrollIntoView();
    });
  }
  press("copy", () => {
    const text = element("command").textContent;
    getSelection().selectAllChildren(element("command"));
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => say("Copied."), () => {});
  });
  show(order);
  showDetail(0);
}

/* The table's rows about their means: what a card is worth at a step beyond the average card. */
function rowCentred(table) {
  const { worth, steps } = table;
  const found = Float64Array.from(worth);
  for (let step = 0; step < steps; step++) {
    const row = found.subarray(step * steps, (step + 1) * steps);
    const mean = row.reduce((a, b) => a + b, 0) / steps;
    row.forEach((_, i) => (row[i] -= mean));
  }
  return found;
}

const boardData = document.getElementById("board-data");
if (boardData) startBoard(JSON.parse(boardData.textContent));
