"use strict";
// One event: its columns, which voxels a cut keeps, and what they are by truth and score.
const TYPES = { u2: Uint16Array, f4: Float32Array };
const NOT_ON_WIRE = 65535;
const CATEGORIES = [ // drawn in this order; the first two are faint
  { name: "not known", colour: "#b9c2cc" }, { name: "ghost dropped", colour: "#ccd3da" },
  { name: "true kept", colour: "#0072b2" }, { name: "ghost kept", colour: "#d55e00" },
  { name: "missed", colour: "#111827" }];
const NOT_TILED = { name: "not tiled", colour: "#cc4fa0" }; // true, but tiling found no voxel there

function unpack([kind, text]) {
  const read = atob(text), bytes = new Uint8Array(read.length);
  for (let i = 0; i < read.length; i++) bytes[i] = read.charCodeAt(i);
  return new TYPES[kind](bytes.buffer);
}

class LarEvent {
  constructor(data) {
    Object.assign(this, data);
    this.columns = Object.fromEntries(Object.entries(data.columns).map(([name, packed]) => [name, unpack(packed)]));
    this.n = this.columns.x.length;
    this.lost = Object.fromEntries(Object.entries(data.lost).map(([name, packed]) => [name, unpack(packed)]));
    this.step = data.cut ? data.cut.start : 0;
    this.planeCharges = data.wires ? data.wires.planes.map(plane => matrix(data.wires, plane)) : [];
  }

  get threshold() { return this.cut.values[this.step]; }

  // The position of the slider that is nearest to a value.
  stepAt(value) {
    const distances = this.cut.values.map(v => Math.abs(v - value));
    return distances.indexOf(Math.min(...distances));
  }

  // What can be shown: a name and which points belong to it.
  sets() {
    const { score, truth } = this.columns, kept = i => score[i] >= this.threshold;
    const found = { all: () => true };
    if (score) found.kept = kept;
    if (truth) found["true"] = i => truth[i] > 0;
    if (score && truth) found["kept ghosts"] = i => kept(i) && truth[i] === 0;
    if (score && truth) found.missed = i => !kept(i) && truth[i] > 0;
    return found;
  }

  category(i) {
    const { score, truth } = this.columns, kept = score[i] >= this.threshold;
    if (truth[i] > 0) return kept ? 2 : 4;
    return truth[i] === 0 ? (kept ? 3 : 1) : 0;
  }

  // What the cut keeps of the image's voxels, not of the points that are drawn.
  counts() {
    const cut = this.cut, k = this.step, kept = cut.kept[k];
    const share = (a, b) => b > 0 ? (100 * a / b).toFixed(1) + " %" : "–";
    const found = { kept: `${count(kept)} of ${count(this.voxels)}` };
    if (!cut.kept_true) return found;
    found.purity = share(cut.kept_true[k], cut.kept_true[k] + cut.kept_ghost[k]);
    found.efficiency = share(cut.kept_true[k], cut.true);
    if (cut.all_true !== null) found["of all true"] = share(cut.kept_true[k], cut.all_true);
    return found;
  }

  // The channel on which most of a point lies: its column in the plane's image, or null.
  column(plane, i) {
    const values = this.columns["channel_" + plane.name];
    return values[i] === NOT_ON_WIRE ? null : values[i];
  }

  // Points that a channel crosses in a slice.
  along(plane, column, slice) {
    const values = this.columns["channel_" + plane.name], first = this.side * Math.floor(slice / this.side), found = [];
    for (let i = 0; i < this.n; i++)
      if (this.columns.slice[i] === first && values[i] !== NOT_ON_WIRE && Math.abs(values[i] - column) <= plane.reach)
        found.push(i);
    return found;
  }

  // Two lines of text about a point.
  describe(i) {
    const c = this.columns, f = v => v.toFixed(1), parts = [];
    parts.push(`x ${f(c.x[i])}  y ${f(c.y[i])}  z ${f(c.z[i])} ${this.unit}`);
    if (c.truth) parts.push(Number.isNaN(c.truth[i]) ? "truth not known" : c.truth[i] > 0
      ? `true, ${si(c.truth[i])} ${this.charge_unit}` : "ghost");
    if (c.score) parts.push(Number.isNaN(c.score[i]) ? "not predicted" : this.cut.charge
      ? `predicted ${si(c.score[i])} ${this.predicted_unit}` : `score ${c.score[i].toFixed(3)}`);
    const charges = this.planes.map(p => `${p} ${si(c["charge_" + p][i])}`).join("  ") + ` ${this.charge_unit}`;
    if (!this.wires) return [parts.join(" · "), charges];
    const from = c.slice[i] * this.wires.ticks, ticks = this.wires.ticks * this.side;
    const channels = this.wires.planes.map(p => {
      const column = this.column(p, i);
      return `${p.name} ${column === null ? "–" : p.channels[column]}`;
    });
    return [parts.join(" · "), `${charges} · ticks ${from}–${from + ticks - 1} · channels ${channels.join("  ")}`];
  }
}

// The image of a plane: a row for each channel, a column for each slice between the first and the last one.
function matrix(wires, plane) {
  const [first, last] = wires.slices, rows = plane.channels.map(() => new Float32Array(last - first + 1));
  const slice = unpack(plane.slice), column = unpack(plane.column), charge = unpack(plane.charge);
  for (let k = 0; k < slice.length; k++) rows[column[k]][slice[k] - first] += charge[k];
  return rows;
}

const count = v => v.toLocaleString("en-US");

function si(v) {
  const [factor, prefix] = Math.abs(v) >= 999500 ? [1e6, " M"] : Math.abs(v) >= 999.5 ? [1e3, " k"] : [1, ""];
  return Number((v / factor).toPrecision(3)) + prefix;
}

// Ticks of a logarithmic colour bar at 1, 2, 5, 10 … between two powers of ten; at 1, 10 … where there are many.
function logTicks(low, high) {
  const vals = [], text = [], steps = high - low > 2.5 ? [1] : [1, 2, 5];
  for (let d = Math.floor(low); d <= Math.ceil(high); d++)
    for (const m of steps) {
      const v = d + Math.log10(m);
      if (v >= low && v <= high) { vals.push(v); text.push(si(m * 10 ** d)); }
    }
  return { tickvals: vals, ticktext: text };
}

const FONT = { family: "system-ui, Segoe UI, Roboto, Arial, sans-serif", size: 13, color: "#1c2733" };
