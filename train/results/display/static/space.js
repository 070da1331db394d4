// The event in 3D: faint points, coloured points, TPC outlines, and what is picked.
const space = { parts: [], element: document.getElementById("space") };
const NO_LINE = { x: [], y: [], z: [] };
const ROUND_POINTS = 40000; // plotly makes a circle of so many triangles that more take seconds
const FAINT = "#d3dae1", PICKED = "#f0a202";

function pointTrace(event, part, marker) {
  const [along, depth, up] = event.axes.map(name => event.columns[name]);
  const take = values => Float32Array.from(part, i => values[i]);
  return { type: "scatter3d", mode: "markers", x: take(along), y: take(depth), z: take(up), showlegend: false,
    hoverinfo: "none", marker: { line: { width: 0 }, ...marker } };
}

function lineTrace(event, line, colour, width) {
  const [x, y, z] = event.axes.map(name => line[name]);
  return { type: "scatter3d", mode: "lines", x, y, z, showlegend: false, hoverinfo: "skip", line: { color: colour, width } };
}

// True voxels that were not tiled: categories show them, as they are among those that nothing can keep.
function lostTrace(event, shown, marker) {
  const [x, y, z] = event.axes.map(name => shown ? event.lost[name] : []);
  return { type: "scatter3d", mode: "markers", x, y, z, showlegend: false, hoverinfo: "skip",
    marker: { line: { width: 0 }, color: NOT_TILED.colour, ...marker } };
}

// [faint points, coloured points, marker of the coloured ones]
function coloured(event, chosen, colour, size) {
  if (colour.name === "category") {
    const kinds = Uint8Array.from(chosen, i => event.category(i)), faint = [], strong = [], values = [];
    chosen.forEach((i, k) => { if (kinds[k] < 2) faint.push(i); else { strong.push(i); values.push(kinds[k]); } });
    const scale = [2, 3, 4].flatMap(k => [[(k - 2) / 3, CATEGORIES[k].colour], [(k - 1) / 3, CATEGORIES[k].colour]]);
    return [faint, strong, { size, color: values, colorscale: scale, cmin: 1.5, cmax: 4.5 }];
  }
  const values = event.columns[colour.name], has = i => colour.log ? values[i] > 0 : !Number.isNaN(values[i]);
  const strong = chosen.filter(has);
  const bar = { title: { text: colour.label + (colour.unit ? `<br>[${colour.unit}]` : ""), side: "top" }, len: 0.6,
    thickness: 13, outlinewidth: 0, x: 1, xanchor: "right", bgcolor: "#ffffffb0",
    ...(colour.log ? logTicks(colour.low, colour.high) : {}) };
  return [chosen.filter(i => !has(i)), strong, { size, color: strong.map(i => colour.log ? Math.log10(values[i]) : values[i]),
    colorscale: colour.scale, cmin: colour.low, cmax: colour.high, colorbar: bar, showscale: true }];
}

function drawSpace(event, state) {
  const chosen = [], inSet = event.sets()[state.show], colour = event.colours.find(c => c.name === state.colour);
  for (let i = 0; i < event.n; i++) if (inSet(i)) chosen.push(i);
  const size = Math.min(2.6, Math.max(0.8, 1.9 - 0.5 * Math.log10(Math.max(chosen.length, 1) / 3000)));
  const symbol = chosen.length > ROUND_POINTS ? "square" : "circle";
  const [faint, strong, marker] = coloured(event, chosen, colour, size);
  const traces = [
    pointTrace(event, faint, { size: 0.7 * size, color: FAINT, opacity: 0.3, symbol }),
    pointTrace(event, strong, { ...marker, symbol }),
    lineTrace(event, state.frame === "event" ? NO_LINE : event.outlines.own, "#7d8b99", 2.5),
    lineTrace(event, state.frame === "detector" ? event.outlines.others : NO_LINE, "#c3ccd6", 1.5),
    { ...pointTrace(event, state.picked, { size: size + 2.5, color: PICKED }), hoverinfo: "skip" },
    lineTrace(event, cross(event, state), PICKED, 5),
    lostTrace(event, ["all", "true", "missed"].includes(state.show) && colour.name === "category", { size, symbol })];
  space.parts = [faint, strong];
  const frame = event.frames[state.frame], revision = state.frame === "event" ? event.key.join(" ") : state.frame;
  Plotly.react(space.element, traces, { scene: { ...frame, uirevision: revision }, paper_bgcolor: "#fff",
    margin: { l: 0, r: 0, t: 0, b: 0 }, font: FONT, hovermode: "closest" },
    { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["tableRotation", "resetCameraLastSave3d"] });
  document.getElementById("drawn").textContent =
    `${count(chosen.length)} ${event.side > 1 ? "points" : "voxels"} drawn`;
  drawLegend(event, colour);
}

function drawLegend(event, colour) {
  const legend = document.getElementById("legend");
  legend.replaceChildren();
  if (colour.name !== "category") return;
  const totals = CATEGORIES.map(() => 0);
  for (let i = 0; i < event.n; i++) totals[event.category(i)]++;
  [...CATEGORIES, NOT_TILED].forEach((category, k) => {
    const total = k < totals.length ? totals[k] : event.lost.x.length;
    if ((k === 0 || k === totals.length) && !total) return;
    const line = document.createElement("div"), dot = document.createElement("i"), number = document.createElement("b");
    dot.style.background = category.colour;
    number.textContent = count(total);
    line.append(dot, category.name, number);
    legend.append(line);
  });
}

// Which point a hover or click of the 3D picture is about, or null.
function pointOf(happened) {
  const at = happened.points[0], part = space.parts[at.curveNumber];
  return part ? part[at.pointNumber] : null;
}

// Three short lines through the one point that is picked, which are seen behind others; none through several.
function cross(event, state) {
  const line = { x: [], y: [], z: [] };
  if (state.picked.length !== 1) return line;
  const ranges = ["xaxis", "yaxis", "zaxis"].map(axis => event.frames[state.frame][axis].range);
  const half = 0.1 * Math.max(...ranges.map(([low, high]) => high - low));
  for (const along of ["x", "y", "z"])
    for (const axis of ["x", "y", "z"]) {
      const at = event.columns[axis][state.picked[0]], reach = axis === along ? half : 0;
      line[axis].push(at - reach, at + reach, null);
    }
  return line;
}

// Highlights what is picked without drawing the others again where nothing else changed.
function pickInSpace(event, state) {
  const line = cross(event, state), points = axis => state.picked.map(i => event.columns[axis][i]);
  const [x, y, z] = event.axes.map(axis => [points(axis), line[axis]]);
  Plotly.restyle(space.element, { x, y, z }, [4, 5]);
}
