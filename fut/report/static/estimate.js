"use strict";
/* The `positions` estimator in the page. An order lists, for every step, the card that stands there. */

function unpack(base64, bytes) {
  const raw = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const view = new DataView(raw.buffer);
  const read = bytes === 8 ? (i) => view.getFloat64(8 * i, true) : (i) => view.getFloat32(4 * i, true);
  return Float64Array.from({ length: raw.length / bytes }, (_, i) => read(i));
}

/* How far an order of cards is from the reference order: `Distance` of estimators/orders/distance.py, for orders that have every card
   once. content: of every card, numbers of its items, one number for all items of equal content. epochs: passes over the items, within
   which random orders are permuted. */
class Distance {
  constructor(content, epochs) {
    this.content = content;
    this.held = this.places(content.map((_, card) => card));
    const placements = content.reduce((sum, items) => sum + items.length, 0);
    const steps = content.length / epochs;
    this.mean = (placements * (steps ** 2 - 1)) / (3 * steps);
  }

  /* The steps that consume each item, ascending. */
  places(order) {
    const found = new Map();
    order.forEach((card, step) => {
      for (const item of this.content[card]) {
        if (found.has(item)) found.get(item).push(step);
        else found.set(item, [step]);
      }
    });
    return found;
  }

  /* How much an order has of what random orders have in common: from 0 to 1, which is for all at least half as far as those. */
  share(order) {
    let moved = 0;
    for (const [item, steps] of this.places(order)) {
      const own = this.held.get(item);
      steps.forEach((step, i) => (moved += Math.abs(step - own[i])));
    }
    return Math.min(1, 2 * (moved / (this.mean || 1)));
  }
}

/* The calibrated value of an estimate: `Calibration.correct`. */
function corrected(fit, raw) {
  return fit.offset + fit.slope * raw + fit.curve * (raw - fit.mean) ** 2;
}

/* Variance of a fit at an estimate, for residuals of variance 1: `Calibration.interval`. */
function leverage(fit, raw) {
  const away = raw - fit.mean;
  if (!fit.covariance.length) return fit.least + (fit.spread > 0 && fit.slope !== 1 ? away ** 2 / fit.spread : 0);
  const powers = [1, away, away ** 2];
  let total = 0;
  powers.forEach((a, i) => powers.forEach((b, j) => (total += a * fit.covariance[i][j] * b)));
  return total;
}

/* Standard deviation of an error at an estimate, by that where the change is typical: `Calibration.interval`. */
function errorScale(fit, raw) {
  return fit.typical ? Math.sqrt(((raw - fit.mean) ** 2 + fit.typical ** 2) / (2 * fit.typical ** 2)) : 1;
}

/* A calibration on random orders, for an order that has a share of what they have in common: `Calibration.nearer`. */
function nearer(fit, reference, share) {
  const offset = corrected(fit, reference) - reference;
  return { ...fit, offset: fit.offset - (1 - share) * offset, sd: fit.sd * Math.sqrt(Math.min(1, 2 * share)) };
}

/* One read-out: { readout, unit, reference, worth: Float64Array [T * T], fit, edits } */
class Table {
  constructor(embedded, classes, distance) {
    Object.assign(this, embedded, { worth: unpack(embedded.worth, 8), classes, distance, steps: classes.length });
  }

  isReference(order) {
    return order.every((card, step) => this.classes[card] === this.classes[step]);
  }

  /* Sum of what every card is worth at its step, minus the reference order's: uncalibrated. */
  sum(order) {
    let total = 0;
    for (let step = 0; step < this.steps; step++) total += this.worth[step * this.steps + order[step]];
    return total;
  }

  /* { value, delta, interval, known, edit, count, share, chosen, beyond } in the read-out's unit; interval is null where the estimator is not
     calibrated for the order, known says that the value is the truth about the reference order. edit is the single edit of it that
     the order is, where the estimator is calibrated on such; count: of the orders that it is calibrated on; share: how much is
     taken of the offset that random orders have in common; beyond: whether the estimate lies outside the range of those that it is
     calibrated on. */
  predict(order) {
    if (this.isReference(order)) {
      const interval = this.fit ? [this.reference, this.reference] : null;
      return { value: this.reference, delta: 0, interval, known: true };
    }
    const added = this.sum(order);
    const raw = this.reference + added;
    const edit = onlyEdits(order, this.classes).find(([kind]) => kind in this.edits);
    const fit = edit ? this.edits[edit[0]] : this.fit;
    if (!fit) return { value: raw, delta: added, interval: null, known: false };
    const share = edit ? 1 : this.distance.share(order);
    const near = share < 1 ? nearer(fit, this.reference, share) : fit;
    const value = corrected(near, raw);
    const half = Math.max(near.quantile * near.sd * Math.sqrt(1 + leverage(near, raw)), near.reach) * errorScale(near, raw);
    const beyond = raw < fit.range[0] || raw > fit.range[1];
    const interval = [value - half, value + half];
    return { value, delta: value - this.reference, interval, known: false, edit, count: fit.count, share, chosen: fit.chosen, beyond };
  }
}

/* The order with the card at `from` taken out and put in at `to`; the cards between close up. */
function moved(order, from, to) {
  const found = order.slice();
  found.splice(to, 0, ...found.splice(from, 1));
  return found;
}

/* The single edits of the reference order that this order is: ["swap", a, b], ["move", from, to], both, or none; `edits_between`.
   Cards of equal class hold the same content. */
function onlyEdits(order, classes) {
  const now = order.map((card) => classes[card]);
  const off = now.map((_, step) => step).filter((step) => now[step] !== classes[step]);
  if (!off.length) return [];
  const [first, last] = [off[0], off[off.length - 1]];
  const swaps = off.length === 2 && now[first] === classes[last] && now[last] === classes[first];
  const found = swaps ? [["swap", first, last]] : [];
  const [before, after] = [classes.slice(first, last + 1), now.slice(first, last + 1)];
  const same = (one, other) => one.every((content, i) => content === other[i]);
  if (same(after, [...before.slice(1), before[0]])) found.push(["move", first, last]);
  else if (same(after, [...before.slice(-1), ...before.slice(0, -1)])) found.push(["move", last, first]);
  return found;
}

/* A share in whole percent, with two digits below ten; `percent` of fut/estimation/results.py. */
function percent(share) {
  return `${share >= 0.0995 ? (100 * share).toFixed(0) : String(Number((100 * share).toPrecision(2)))}\u00a0%`;
}

/* What a prediction is calibrated on, in short and in a sentence; "" where it is not. */
function basisOf({ known, interval, edit, count, share, chosen, beyond }) {
  if (known || !interval) return ["", ""];
  const outside = beyond ? " The estimate lies outside the range of those that it was calibrated on: the interval may not hold." : "";
  if (edit) {
    const [kind] = edit;
    return [`${count} single ${kind}s`, `Calibrated on ${count} retrained orders, each a single ${kind} away from the reference order, as this one is.${outside}`];
  }
  const kind = chosen ? "chosen orders" : "random orders";
  const all = `Calibrated on ${count} retrained ${kind}`;
  const short = `${count} ${kind}${beyond ? ", out of range" : ""}`;
  if (share >= 1) return [short, `${all}, with all of the calibration offset.${outside}`];
  const narrower = share < 0.5 ? `, and the interval is narrower: it has ${percent(2 * share)} of their error variance` : "";
  return [
    `${short}, ${percent(share)} of offset`,
    `${all}. This order is close to the reference order, so ${percent(share)} of the calibration offset is applied${narrower}.${outside}`,
  ];
}

function swapped(order, a, b) {
  const found = order.slice();
  [found[a], found[b]] = [found[b], found[a]];
  return found;
}

/* "3, 1, 2, 0" as an order of T cards, every one once; an Error says what is wrong with it. */
function parsed(text, steps) {
  const words = text.split(/[\s,]+/).filter(Boolean);
  const found = words.map(Number);
  const wrong = words.find((w) => !/^\d+$/.test(w) || Number(w) >= steps);
  if (wrong !== undefined) throw new Error(`expected batch numbers 0 to ${steps - 1}, got “${wrong}”`);
  const twice = found.find((card, i) => found.indexOf(card) < i);
  if (twice !== undefined) throw new Error(`expected every batch once, got batch ${twice} twice`);
  if (found.length !== steps) throw new Error(`expected ${steps} batches, got ${found.length}`);
  return found;
}

/* A number as the rest of the page writes it: true minus sign; a sign in front of a difference. */
function written(value, digits, signed) {
  const text = Math.abs(value).toFixed(digits);
  const zero = Number(text) === 0;
  return (value < 0 && !zero ? "−" : signed && !zero ? "+" : "") + text;
}

/* A value of a read-out, without its unit. A function of the user's own has none, and any magnitude. */
function amount(value, unit, signed) {
  if (unit) return written(value, 5, signed);
  const text = String(Number(Math.abs(value).toPrecision(6)));
  return (value < 0 ? "−" : signed && value > 0 ? "+" : "") + text;
}
