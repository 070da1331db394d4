"use strict";
// The list of a store's images: search, pages; what is asked stands in the address, so that "back" works.
const $ = id => document.getElementById(id);
const COUNT = 50;
const HEADS = { file: "file", event: "event", tpc: "TPC", voxel_count: "voxels", truth_count: "true voxels",
  truth_sum: "true charge", run: "run" };
const asked = new URLSearchParams(location.search);
for (const name of ["file", "event", "tpc"]) $(name).value = asked.get(name) ?? "";

const shown = (name, value) => value === null || (name === "run" && value < 0) ? "–"
  : ["file", "event", "tpc", "run"].includes(name) ? String(value)
  : name.endsWith("_count") ? value.toLocaleString("en-US") : Number((value / 1e3).toPrecision(4)).toLocaleString("en-US") + " k";

function go(start) {
  const next = new URLSearchParams();
  for (const name of ["file", "event", "tpc"]) if ($(name).value.trim()) next.set(name, $(name).value.trim());
  if (start) next.set("start", start);
  history.pushState(null, "", "?" + next);
  load();
}

async function load() {
  const query = new URLSearchParams(location.search);
  query.set("count", COUNT);
  const answer = await fetch("images.json?" + query), data = await answer.json();
  $("error").textContent = answer.ok ? "" : data.error;
  if (!answer.ok) return;
  const cell = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
  const title = name => HEADS[name] ?? name.replace("charge_sum_", "charge ");
  $("head").replaceChildren(...data.names.map(name => cell("th", title(name))));
  $("rows").replaceChildren(...data.rows.map((row, k) => {
    const line = document.createElement("tr"), filter = new URLSearchParams(location.search);
    filter.delete("start");
    filter.set("position", data.start + k);
    row.forEach((value, i) => line.append(cell("td", shown(data.names[i], value))));
    const link = Object.assign(document.createElement("a"), { href: "view?" + filter, textContent: row[0] });
    line.firstChild.replaceChildren(link);
    line.onclick = () => { location.href = link.href; };
    return line;
  }));
  const last = data.start + data.rows.length;
  $("total").textContent = data.total ? `${(data.start + 1).toLocaleString("en-US")}–${last.toLocaleString("en-US")} of `
    + `${data.total.toLocaleString("en-US")} images, charges in ${data.units}` : "no image fits";
  $("first").disabled = $("back").disabled = data.start === 0;
  $("on").disabled = $("last").disabled = last >= data.total;
  $("first").onclick = () => go(0);
  $("back").onclick = () => go(Math.max(0, data.start - COUNT));
  $("on").onclick = () => go(data.start + COUNT);
  $("last").onclick = () => go(COUNT * Math.floor((data.total - 1) / COUNT));
}

$("search").onsubmit = submitted => { submitted.preventDefault(); go(0); };
addEventListener("popstate", () => location.reload());
load();
