// The page: controls, and one event after the other. PAGE says where the events come from:
// {total, start, titles} for events in the page itself, {total, start, address} where a server is asked for each.
const state = { event: null, position: PAGE.start, colour: null, show: "all", frame: null, threshold: null, picked: [],
  kept: null, asked: 0 };
const $ = id => document.getElementById(id);

async function fetchEvent(position) {
  if (!PAGE.address) return JSON.parse($(`event-${position}`).textContent);
  const answer = await fetch(`${PAGE.address}&position=${position}`);
  const data = await answer.json();
  if (!answer.ok) throw new Error(data.error);
  return data;
}

async function step(position) {
  const asked = ++state.asked;
  let event;
  try {
    event = new LarEvent(await fetchEvent(position));
  } catch (problem) {
    if (asked === state.asked) $("error").textContent = problem.message;
    return;
  }
  if (asked !== state.asked) return; // another one was asked for meanwhile
  $("error").textContent = "";
  if (state.threshold !== null && event.cut) event.step = event.stepAt(state.threshold);
  Object.assign(state, { event, position, picked: [], kept: null });
  if (!event.colours.some(c => c.name === state.colour)) state.colour = event.colours[0].name;
  if (!(state.show in event.sets())) state.show = "all";
  if (!(state.frame in event.frames)) state.frame = "TPC" in event.frames ? "TPC" : "event";
  document.title = event.title;
  $("title").textContent = event.title;
  $("facts").textContent = event.facts.join(" · ");
  $("notes").textContent = event.notes.join(" ");
  $("info").replaceChildren();
  controls();
  drawPlanes(event);
  drawSpace(event, state);
  listen();
  document.body.dataset.event = event.key.join(" ");
}

function buttons(id, names, current, choose) {
  const group = $(id);
  for (const old of group.querySelectorAll("button")) old.remove();
  for (const [name, label] of names) {
    const button = document.createElement("button");
    button.textContent = label;
    button.dataset.name = name;
    button.classList.toggle("on", name === current);
    button.setAttribute("aria-pressed", name === current);
    button.onclick = () => { choose(name); controls(); drawSpace(state.event, state); };
    group.append(button);
  }
}

function controls() {
  const event = state.event;
  buttons("colour", event.colours.map(c => [c.name, c.label]), state.colour, name => { state.colour = name; });
  buttons("show", Object.keys(event.sets()).map(name => [name, name]), state.show, name => { state.show = name; });
  buttons("frame", Object.keys(event.frames).map(name => [name, name]), state.frame, name => { state.frame = name; });
  $("cut").hidden = $("counts").hidden = !event.cut;
  if (event.cut) {
    $("slider").max = event.cut.values.length - 1;
    $("slider").value = event.step;
    tellCut();
  }
  $("previous").disabled = state.position === 0;
  $("next").disabled = state.position === PAGE.total - 1;
  $("steps").hidden = PAGE.total < 2;
  $("position").value = PAGE.titles ? state.position : state.position + 1;
}

function tellCut() {
  const event = state.event, value = event.threshold;
  $("value").textContent = event.cut.charge ? si(value) : value.toFixed(3).replace(/0$/, "");
  $("of").textContent = event.cut.charge ? "charge ≥" : "score ≥";
  const parts = Object.entries(event.counts()).map(([name, text]) => {
    const part = document.createElement("span"), number = document.createElement("b");
    number.textContent = text;
    number.id = name.replaceAll(" ", "-");
    part.append(name + " ", number);
    return part;
  });
  $("counts").replaceChildren(...parts);
}

let waiting = null;
function redrawSoon() { // what is drawn depends on the cut: when the slider rests
  if (!["kept", "kept ghosts", "missed"].includes(state.show) && state.colour !== "category") return;
  clearTimeout(waiting);
  waiting = setTimeout(() => drawSpace(state.event, state), 120);
}

function tellPoint(lines) {
  $("info").replaceChildren(...lines.map(line => Object.assign(document.createElement("div"), { textContent: line })));
}

function pointAt(i) {
  const event = state.event;
  tellPoint(event.describe(i));
  if (event.wires)
    mark(event, { slice: event.columns.slice[i], columns: event.wires.planes.map(plane => event.column(plane, i)) });
}

// What is under the pointer is marked, unless a click keeps a mark; another click moves it, Escape ends it.
let pointed = null, frameAsked = false;
function soon(action) {
  pointed = action;
  if (frameAsked) return;
  frameAsked = true;
  requestAnimationFrame(() => { frameAsked = false; pointed(); });
}

function keep(points, action) {
  state.kept = true;
  state.picked = points;
  action();
  pickInSpace(state.event, state);
}

function letGo() {
  if (!state.kept) return;
  Object.assign(state, { kept: null, picked: [] });
  pickInSpace(state.event, state);
  mark(state.event, null);
  $("info").replaceChildren();
}

function markPlane(happened) {
  const found = markOf(state.event, happened), points = count(found.points.length);
  tellPoint([`${points} ${state.event.side > 1 ? "points" : "voxels"} on this channel in these ticks`]);
  mark(state.event, found);
}

// An element knows plotly's events once something is drawn in it.
const listening = new Set();
function listen() {
  if (!listening.has(space)) {
    listening.add(space);
    space.element.on("plotly_hover", happened => {
      const i = pointOf(happened);
      if (i !== null && !state.kept) soon(() => pointAt(i));
    });
    space.element.on("plotly_click", happened => {
      const i = pointOf(happened);
      if (i !== null) keep([i], () => pointAt(i));
    });
  }
  if (listening.has(planes) || !state.event.wires) return;
  listening.add(planes);
  planes.element.on("plotly_hover", happened => { if (!state.kept) soon(() => markPlane(happened)); });
  planes.element.on("plotly_click", happened => {
    keep(markOf(state.event, happened).points, () => markPlane(happened));
  });
  zoomTogether();
}

$("slider").oninput = () => {
  state.event.step = Number($("slider").value);
  state.threshold = state.event.threshold;
  tellCut();
  redrawSoon();
};
const move = by => { const to = state.position + by; if (to >= 0 && to < PAGE.total) step(to); };
$("previous").onclick = () => move(-1);
$("next").onclick = () => move(1);
$("position").onchange = () => {
  const to = Number($("position").value) - (PAGE.titles ? 0 : 1);
  if (Number.isInteger(to) && to >= 0 && to < PAGE.total) step(to); else controls();
};
if ($("prediction")) $("prediction").onchange = () => {
  const query = new URLSearchParams(PAGE.address.split("?")[1]);
  query.set("prediction", $("prediction").value);
  PAGE.address = "event.json?" + query;
  state.threshold = null;
  step(state.position);
};
addEventListener("keydown", pressed => {
  if (pressed.key === "Escape") letGo();
  if (["INPUT", "SELECT"].includes(pressed.target.tagName) || pressed.altKey || pressed.ctrlKey || pressed.metaKey) return;
  if (pressed.key === "ArrowLeft") move(-1);
  if (pressed.key === "ArrowRight") move(1);
});

// A link may ask for a start, e.g. event.html#colour=score&show=kept
const wanted = new URLSearchParams(location.hash.slice(1));
for (const name of ["colour", "show", "frame"]) if (wanted.has(name)) state[name] = wanted.get(name);
step(PAGE.start);
