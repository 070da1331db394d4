// The wire planes of an event, ticks × channels, and below them the charge along ticks of the picked channels.
const planes = { element: document.getElementById("planes"), wave: document.getElementById("wave") };
const PLANE_COLOURS = ["#d55e00", "#009e73", "#0072b2", "#cc79a7"];
const MARGIN = { l: 62, r: 98, autoexpand: false };

// Channel numbers of an axis: themselves where they are dense, else their order.
function channelAxis(plane) {
  const first = plane.channels[0], last = plane.channels[plane.channels.length - 1];
  const dense = last - first + 1 === plane.channels.length;
  return { start: dense ? first : 0, title: dense ? `channel of ${plane.name}` : `${plane.name}, channels in order` };
}

function drawPlanes(event) {
  document.getElementById("right").hidden = !event.wires;
  if (!event.wires) return;
  const { ticks, slices, low, high, scale } = event.wires, n = event.wires.planes.length, gap = 0.035;
  const layout = { margin: { ...MARGIN, t: 32, b: 24 }, font: { ...FONT, size: 12 }, paper_bgcolor: "#fff", plot_bgcolor: "#f6f8fa",
    hovermode: "closest", uirevision: event.key.join(" "), dragmode: "zoom",
    xaxis: { anchor: n > 1 ? "y" + n : "y", showgrid: false, zeroline: false,
      range: [(slices[0] - 3) * ticks, (slices[1] + 4) * ticks], linecolor: "#8a96a3", ticks: "outside", ticklen: 4 } };
  const traces = event.wires.planes.map((plane, p) => {
    const axis = p ? `y${p + 1}` : "y", { start, title } = channelAxis(plane);
    layout["yaxis" + (p ? p + 1 : "")] = { title: { text: title, standoff: 6 }, domain: [1 - (p + 1) / n + (p < n - 1 ? gap / 2 : 0),
      1 - p / n - (p ? gap / 2 : 0)], range: [start - 0.5, start + plane.channels.length - 0.5], showgrid: false,
      zeroline: false, linecolor: "#8a96a3", ticks: "outside", ticklen: 4 };
    return { type: "heatmap", z: event.planeCharges[p].map(row => Array.from(row, v => v > 0 ? Math.log10(v) : null)),
      x0: (slices[0] + 0.5) * ticks, dx: ticks, y0: start, dy: 1, xaxis: "x", yaxis: axis, zmin: low, zmax: high,
      colorscale: scale, showscale: p === 0, hoverinfo: "none",
      colorbar: { title: { text: `charge<br>[${event.charge_unit}]`, side: "top" }, thickness: 11, len: 0.62, y: 1, yanchor: "top",
        x: 1.01, outlinewidth: 0, ...logTicks(low, high) } };
  });
  Plotly.react(planes.element, traces, layout, { displaylogo: false, responsive: true, scrollZoom: true,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
  mark(event, null);
}

// Marks a slice and a channel of each plane, and draws these channels' charges along ticks; without a mark those of all
// channels together. `picked`: {slice, columns: [column or null of each plane]}, or null.
function mark(event, picked) {
  if (!event.wires) return;
  const { ticks } = event.wires, shapes = [], traces = [], line = { color: PICKED, width: 1.3 };
  const middle = picked ? (picked.slice + event.side / 2) * ticks : null;
  event.wires.planes.forEach((plane, p) => {
    const rows = event.planeCharges[p];
    if (!picked) {
      traces.push(waveform(event, p, rows[0].map((_, k) => rows.reduce((sum, row) => sum + row[k], 0)), `all of ${plane.name}`));
      return;
    }
    const y = p ? `y${p + 1}` : "y", column = picked.columns[p];
    shapes.push({ type: "line", xref: "x", yref: `${y} domain`, x0: middle, x1: middle, y0: 0, y1: 1, line });
    if (column === null) return;
    const at = channelAxis(plane).start + column;
    shapes.push({ type: "line", xref: "x domain", yref: y, x0: 0, x1: 1, y0: at, y1: at, line });
    traces.push(waveform(event, p, rows[column], `${plane.name} ${plane.channels[column]}`));
  });
  Plotly.relayout(planes.element, { shapes });
  Plotly.react(planes.wave, traces, { margin: { ...MARGIN, t: 8, b: 36 }, font: { ...FONT, size: 12 }, paper_bgcolor: "#fff",
    xaxis: { range: planes.element.layout.xaxis.range.slice(), title: { text: "tick", standoff: 4 }, gridcolor: "#edf1f5",
      zeroline: false, linecolor: "#8a96a3" },
    yaxis: { title: { text: `${event.charge_unit} / ${ticks} ticks`, standoff: 4 }, rangemode: "tozero", nticks: 5,
      gridcolor: "#edf1f5", zerolinecolor: "#8a96a3" },
    hovermode: "x", showlegend: true, legend: { x: 1.01, y: 1, font: { size: 12 }, bgcolor: "#ffffff00" },
    shapes: picked ? [{ type: "line", xref: "x", yref: "paper", x0: middle, x1: middle, y0: 0, y1: 1, line }] : [] },
    { displayModeBar: false, responsive: true });
  document.getElementById("says").textContent = "Charges are projected from the stored voxels (the raw waveforms are not in "
    + "the store). " + (picked ? "Escape lets a mark go." : "Point at a voxel or a plane to mark it; a click keeps the mark.");
}

function waveform(event, p, charges, name) {
  const { ticks, slices } = event.wires;
  return { type: "scatter", mode: "lines", line: { shape: "hvh", width: 1.5, color: PLANE_COLOURS[p % 4] }, name,
    x: Array.from(charges, (_, k) => (slices[0] + k + 0.5) * ticks), y: Array.from(charges) };
}

// Which slice and channel a hover or click of the planes is about, and what that marks.
function markOf(event, happened) {
  const at = happened.points[0], p = at.curveNumber, plane = event.wires.planes[p];
  const column = Math.round(at.y) - channelAxis(plane).start, slice = Math.floor(at.x / event.wires.ticks);
  return { slice: event.side * Math.floor(slice / event.side),
    columns: event.wires.planes.map((_, q) => q === p ? column : null), points: event.along(plane, column, slice) };
}

function zoomTogether() {
  planes.element.on("plotly_relayout", change => {
    const view = planes.element.layout.xaxis.range;
    if (Object.keys(change).some(key => key.startsWith("xaxis"))) Plotly.relayout(planes.wave, { "xaxis.range": view.slice() });
  });
}
