"""Style, body and script of an event's page; the script draws ``EVENT``, see `train.results.display.payload`."""

STYLE = """
:root { color-scheme: light; --ink: #1c2733; --faint: #5d6b7a; --line: #dfe5ec; --blue: #1f5fa8; }
* { box-sizing: border-box; }
html, body { height: 100%; }
body { margin: 0; display: flex; flex-direction: column; color: var(--ink); background: #fff;
       font: 14px/1.45 system-ui, "Segoe UI", Roboto, Arial, sans-serif; }
header { padding: 12px 18px 8px; border-bottom: 1px solid var(--line); }
h1 { font-size: 19px; margin: 0; }
.facts, .note, #count { color: var(--faint); }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 22px; margin-top: 8px; }
.group { display: flex; flex-wrap: wrap; align-items: center; gap: 4px; }
.group > span { color: var(--faint); margin-right: 4px; }
button { font: inherit; padding: 3px 11px; border: 1px solid #c3ccd6; border-radius: 5px; background: #fff;
         color: var(--ink); cursor: pointer; }
button.on { background: var(--blue); border-color: var(--blue); color: #fff; }
button:focus-visible, input:focus-visible { outline: 2px solid #f0a202; outline-offset: 1px; }
input[type=range] { width: 170px; accent-color: var(--blue); }
#plot { flex: 1; min-height: 320px; }
"""

BODY = """<header><h1>{title}</h1><div class="facts">{facts}</div>
<div class="bar"><div class="group" id="colour"><span>colour</span></div>
<div class="group" id="show"><span>show</span></div>
<div class="group" id="cut"><label for="threshold">score ≥ <b id="value"></b></label>
<input type="range" id="threshold" step="any"></div>
<div id="count"></div></div><div class="note">{note}</div></header><div id="plot"></div>"""

SCRIPT = r"""
"use strict";
const columns = {};
for (const [name, text] of Object.entries(EVENT.columns)) {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  columns[name] = new Float32Array(bytes.buffer);
}
const [along, depth, up] = EVENT.axes.map(name => columns[name]);
const n = columns.x.length, unit = EVENT.unit;
const state = { colour: EVENT.colours[0], show: "all", threshold: EVENT.threshold };
const sets = { all: () => true };
if (columns.score) sets.kept = i => columns.score[i] >= state.threshold;
if (columns.truth) sets["true"] = i => columns.truth[i] > 0;
if (columns.score && columns.truth) sets["kept ghosts"] = i => sets.kept(i) && columns.truth[i] === 0;
if (columns.score && columns.truth) sets["lost"] = i => !sets.kept(i) && columns.truth[i] > 0;
const count = v => v.toLocaleString("en-US");
const si = v => {
  const [factor, prefix] = v >= 1e6 ? [1e6, " M"] : v >= 1e3 ? [1e3, " k"] : [1, ""];
  return Number((v / factor).toPrecision(3)) + prefix;
};

function logTicks(colour) {
  const vals = [], text = [];
  for (let d = Math.floor(colour.low); d <= Math.ceil(colour.high); d++)
    for (const m of [1, 2, 5]) {
      const v = d + Math.log10(m);
      if (v >= colour.low && v <= colour.high) { vals.push(v); text.push(si(m * 10 ** d)); }
    }
  return { tickvals: vals, ticktext: text };
}

function hover(i) {
  const c = columns, f = v => v.toFixed(1);
  let s = `x ${f(c.x[i])}  y ${f(c.y[i])}  z ${f(c.z[i])} ${unit}`;
  s += "<br>" + EVENT.planes.map(p => `${p} ${si(c["charge_" + p][i])}`).join("  ") + " " + EVENT.colours[0].unit;
  if (c.truth) s += `<br>truth ${c.truth[i] > 0 ? si(c.truth[i]) : Number.isNaN(c.truth[i]) ? "not known" : "ghost"}`;
  if (c.score) s += `<br>score ${Number.isNaN(c.score[i]) ? "not predicted" : c.score[i].toFixed(3)}`;
  return s;
}

function draw() {
  const chosen = [], colour = state.colour, values = columns[colour.name];
  for (let i = 0; i < n; i++) if (sets[state.show](i)) chosen.push(i);
  const has = i => colour.log ? values[i] > 0 : !Number.isNaN(values[i]);
  const parts = [chosen.filter(i => !has(i)), chosen.filter(has)];
  const size = Math.min(4.5, Math.max(1.6, 3.2 - 0.55 * Math.log10(Math.max(chosen.length, 1) / 3000)));
  const bar = { title: { text: colour.label + (colour.unit ? `<br>[${colour.unit}]` : ""), side: "top" },
    len: 0.72, thickness: 14, outlinewidth: 0, ...(colour.log ? logTicks(colour) : {}) };
  const trace = (part, marker) => ({ type: "scatter3d", mode: "markers", x: part.map(i => along[i]),
    y: part.map(i => depth[i]), z: part.map(i => up[i]), text: part.map(hover), showlegend: false,
    hovertemplate: "%{text}<extra></extra>", marker: { line: { width: 0 }, ...marker } });
  const traces = [
    trace(parts[0], { size: 0.75 * size, color: EVENT.nothing, opacity: 0.3 }),
    trace(parts[1], { size, opacity: 1, color: parts[1].map(i => colour.log ? Math.log10(values[i]) : values[i]),
      colorscale: colour.scale, cmin: colour.low, cmax: colour.high, colorbar: bar, showscale: true }) ];
  Plotly.react("plot", traces, { scene: EVENT.scene, uirevision: "keep", paper_bgcolor: "#fff",
    margin: { l: 0, r: 0, t: 0, b: 0 },
    font: { family: "system-ui, Segoe UI, Roboto, Arial, sans-serif", size: 13, color: "#1c2733" } },
    { displaylogo: false, responsive: true });
  let text = `${count(chosen.length)} of ${count(n)} drawn voxels shown`;
  if (columns.truth) text += `, ${count(chosen.filter(sets["true"]).length)} of them true`;
  document.getElementById("count").textContent = text;
}

function buttons(id, labels, current, choose) {
  const group = document.getElementById(id);
  for (const [label, value] of labels) {
    const button = document.createElement("button");
    button.textContent = label;
    button.setAttribute("aria-pressed", value === current);
    button.classList.toggle("on", value === current);
    button.onclick = () => {
      for (const other of group.querySelectorAll("button")) {
        other.classList.toggle("on", other === button);
        other.setAttribute("aria-pressed", other === button);
      }
      choose(value);
      draw();
    };
    group.append(button);
  }
}

// A link may ask for a start, e.g. event.html#colour=score&show=kept
const asked = new URLSearchParams(location.hash.slice(1));
state.colour = EVENT.colours.find(c => c.name === asked.get("colour")) ?? state.colour;
if (asked.get("show") in sets) state.show = asked.get("show");
buttons("colour", EVENT.colours.map(c => [c.label, c]), state.colour, c => { state.colour = c; });
buttons("show", Object.keys(sets).map(name => [name, name]), state.show, name => { state.show = name; });
const slider = document.getElementById("threshold"), shown = document.getElementById("value");
if (columns.score) {
  [slider.min, slider.max] = EVENT.scores;
  slider.value = state.threshold;
  const tell = () => { shown.textContent = state.threshold.toPrecision(3); };
  slider.oninput = () => { state.threshold = Number(slider.value); tell(); };
  slider.onchange = draw;
  tell();
} else document.getElementById("cut").remove();
draw();
"""
