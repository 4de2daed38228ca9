"use strict";
/* The `positions` estimator in the page. An order lists, for every step, the card that stands there. */

function unpack(base64, bytes) {
  const raw = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const view = new DataView(raw.buffer);
  const read = bytes === 8 ? (i) => view.getFloat64(8 * i, true) : (i) => view.getFloat32(4 * i, true);
  return Float64Array.from({ length: raw.length / bytes }, (_, i) => read(i));
}

/* One read-out: { readout, unit, reference, worth: Float64Array [T * T], fit } */
class Table {
  constructor(embedded, classes) {
    Object.assign(this, embedded, { worth: unpack(embedded.worth, 8), classes, steps: classes.length });
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

  /* { value, delta, interval, known } in the read-out's unit; interval is null where the estimator is not calibrated,
     known says that the value is the truth about the reference order; edit is the single edit of it that the order is, where
     the estimator is calibrated on such. */
  predict(order) {
    if (this.isReference(order)) {
      const interval = this.fit ? [this.reference, this.reference] : null;
      return { value: this.reference, delta: 0, interval, known: true };
    }
    const added = this.sum(order);
    const raw = this.reference + added;
    const edit = onlyEdits(order).find(([kind]) => kind in this.edits);
    const fit = edit ? this.edits[edit[0]] : this.fit;
    if (!fit) return { value: raw, delta: added, interval: null, known: false };
    const { offset, slope, sd, least, mean, spread, quantile } = fit;
    const value = offset + slope * raw;
    const far = spread > 0 && slope !== 1 ? (raw - mean) ** 2 / spread : 0;
    const half = quantile * sd * Math.sqrt(1 + least + far);
    return { value, delta: value - this.reference, interval: [value - half, value + half], known: false, edit };
  }
}

/* The order with the card at `from` taken out and put in at `to`; the cards between close up. */
function moved(order, from, to) {
  const found = order.slice();
  found.splice(to, 0, ...found.splice(from, 1));
  return found;
}

/* The single edits of the reference order that this order is: ["swap", a, b], ["move", from, to], both, or none. */
function onlyEdits(order) {
  const off = order.map((card, step) => step).filter((step) => order[step] !== step);
  if (!off.length) return [];
  const [first, last] = [off[0], off[off.length - 1]];
  const found = off.length === 2 ? [["swap", first, last]] : [];
  const inner = order.slice(first, last + 1);
  if (inner.slice(0, -1).every((card, i) => card === first + 1 + i)) found.push(["move", first, last]);
  else if (inner.slice(1).every((card, i) => card === first + i)) found.push(["move", last, first]);
  return found;
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
