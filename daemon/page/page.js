// The page: takes what the daemon tells each second and shows it. Everything shown is text, never markup.

import { Stack, color, limitColor } from "./charts.js";
import { clock, count, percent, quantity, rate, scaled } from "./format.js";

const REMEMBERED_SECONDS = 600;
const MINUTE = 60;
const SILENT_MILLISECONDS = 3500;
const EVENTS_SHOWN = 100;
const POINTS_SHOWN = 6;

const $ = (id) => document.getElementById(id);
const power = new Stack($("power-chart"), "W");
const points = new Stack($("points-chart"), "/s");

let moments = [];
let events = [];
let present = null;
let control = false;
let paused = false;
let span = 300;
let heard = 0;

/** Make an element with text, children and attributes. */
function make(tag, { text, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const width = (fraction) => `${100 * Math.min(Math.max(fraction, 0), 1)}%`;
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
const pill = (text, kind = "") => make("span", { text, class: `pill ${kind}` });
/** Make text that is broken into lines at its spaces only, not at hyphens. */
const words = (text) => text.split(" ").flatMap((word) => [make("span", { text: word, class: "whole" }), " "]);
/** Make what stands on lines of its own where the screen is too narrow for the columns that tell it; each part is unbroken. */
const less = (...parts) => make("div", { text: parts.filter(Boolean).map((part) => part.replaceAll(" ", "\u00a0")).join(", "), class: "less" });
const number = (text, value, more = "") => make("td", { text, class: `number ${more}`, ...(value === undefined ? {} : { "data-value": value }) });

function swatch(background) {
  const element = make("span", { class: "swatch" });
  element.style.background = background;
  return element;
}

function figure(id, [digits, unit]) {
  $(id).replaceChildren(digits, make("small", { text: unit }));
}

/** Keep what charts need of the present, in the form of the past. */
function moment({ sample }) {
  return {
    unix_seconds: sample.unix_seconds,
    limit_watts: sample.limit_joules / sample.window_seconds,
    used_watts: sample.used_joules / sample.window_seconds,
    watts: sample.watts,
    answered: Object.fromEntries(sample.points.map((point) => [point.name, point.answered])),
    finals: sample.points.reduce((sum, point) => sum + point.finals, 0),
    joules: sample.points.reduce((sum, point) => sum + point.joules, 0),
  };
}

function remember(more) {
  const last = moments.at(-1)?.unix_seconds ?? 0;
  moments.push(...more.filter((each) => each.unix_seconds > last));
  const oldest = moments.at(-1).unix_seconds - REMEMBERED_SECONDS;
  moments = moments.filter((each) => each.unix_seconds >= oldest);
}

/** Give the first moment of the last `seconds`; counters begin anew with the daemon, so a restart cuts them off. */
function since(seconds) {
  const earliest = moments.at(-1).unix_seconds - seconds;
  let first = moments.at(-1);
  for (let at = moments.length - 1; at >= 0 && moments[at].unix_seconds >= earliest; at--) {
    if (moments[at].finals > first.finals || total(moments[at]) > total(first)) break;
    first = moments[at];
  }
  return first;
}

const total = ({ answered }) => Object.values(answered).reduce((sum, each) => sum + each, 0);

function showFigures() {
  const { sample } = present;
  const now = moments.at(-1);
  const watts = Object.values(sample.watts).reduce((sum, each) => sum + each, 0);
  figure("power", scaled(watts, "W"));
  $("power-note").textContent = `${weakest(sample.buckets)}, now`;
  const filled = sample.limit_joules ? sample.used_joules / sample.limit_joules : 0;
  $("window").dataset.value = sample.used_joules;
  figure("window", scaled(sample.used_joules, "J"));
  $("window-bar").style.width = width(filled);
  $("window-meter").classList.toggle("full", filled > 0.95);
  $("window-meter").setAttribute("aria-label", `${percent(filled)} filled`);
  $("window-note").dataset.value = sample.limit_joules;
  $("window-note").textContent = `${percent(filled)} of ${quantity(sample.limit_joules, "J")} in any ${sample.window_seconds} s`;

  const before = since(MINUTE);
  const seconds = now.unix_seconds - before.unix_seconds;
  const answers = total(now) - total(before);
  figure("rate", [seconds ? rate(answers / seconds) : "0", "per second"]);
  const others = Object.entries(sample.statuses).filter(([status]) => status !== "ok");
  const refused = others.reduce((sum, [, each]) => sum + each, 0);
  $("rate-note").textContent = `${count(total(now))} since the start, ${count(refused)} without an answer`;
  const right = sample.points.reduce((sum, point) => sum + point.accuracy * ((now.answered[point.name] ?? 0) - (before.answered[point.name] ?? 0)), 0);
  figure("accuracy", answers ? [(100 * right / answers).toFixed(2), "%"] : ["–", ""]);
  const finals = now.finals - before.finals;
  figure("energy", finals ? scaled((now.joules - before.joules) / finals, "J") : ["–", ""]);
  $("energy-note").textContent = `dynamic, mean of the last minute${finals ? `, ${weakest(sample.points.filter((point) => point.finals))}` : ""}`;
}

/** Name the weakest provenance of what is added up: what is simulated in part is never called measured. */
function weakest(parts) {
  const order = ["measured", "modelled", "simulated"];
  return order[Math.max(...parts.map((part) => order.indexOf(part.provenance)), 0)];
}

/** Give the color of a device, wherever it appears; `nth` makes those of its operating points differ. */
function shade(device, nth = 0) {
  const names = Object.keys(present.sample.watts);
  return color(names.findIndex((name) => name.split("+").includes(device)), nth);
}

/** Give when the time shown begins: with the first sample, if that is later, but at least a minute ago. */
function begin() {
  const end = moments.at(-1).unix_seconds;
  return Math.max(end - span, Math.min(moments[0].unix_seconds, end - MINUTE));
}

/** Give the values of the moments, with a hole where the daemon did not speak. */
function series(value) {
  return shown().map((each) => (each.hole ? null : value(each)));
}

function shown() {
  const rows = [];
  for (const each of moments.filter((one) => one.unix_seconds >= begin())) {
    const last = rows.at(-1);
    if (last && each.unix_seconds - last.unix_seconds > 5) rows.push({ unix_seconds: last.unix_seconds + 1, hole: true });
    rows.push(each);
  }
  return rows;
}

/** Give the answers per second at each moment shown. */
function rates(name) {
  const rows = shown();
  return rows.map((each, at) => {
    const before = rows[at - 1];
    if (each.hole) return null;
    if (!before || before.hole) return 0;
    const more = (each.answered[name] ?? 0) - (before.answered[name] ?? 0);
    return Math.max(more, 0) / (each.unix_seconds - before.unix_seconds);
  });
}

function smooth(values) {
  return values.map((value, at) => {
    if (value === null) return null;
    const near = values.slice(Math.max(at - 4, 0), at + 1).filter((each) => each !== null);
    return near.reduce((sum, each) => sum + each, 0) / near.length;
  });
}

function highest(lists) {
  return Math.max(...lists[0].map((_, at) => lists.reduce((sum, list) => sum + (list[at] ?? 0), 0)));
}

function showPower() {
  const devices = Object.keys(present.sample.watts);
  const areas = devices.map((name) => ({ name, color: shade(name.split("+")[0]), values: series((each) => each.watts[name] ?? 0) }));
  const limits = series((each) => each.limit_watts);
  const peak = highest(areas.map((area) => area.values));
  const limit = moments.at(-1).limit_watts;
  // A limit far above what is drawn would press it flat: the legend tells it, then.
  const fits = limit <= 6 * peak || !peak;
  const lines = [{ name: "mean of the window", values: series((each) => each.used_watts) }];
  if (fits) lines.push({ name: "limit", color: limitColor(), dash: [8, 6], steps: true, values: limits.map((each) => (each > 6 * peak && peak ? null : each)) });
  const top = 1.12 * Math.max(peak, ...lines.flatMap((line) => line.values.map((each) => each ?? 0)), 1e-9);
  const end = moments.at(-1).unix_seconds;
  power.show(shown().map((each) => each.unix_seconds), areas, lines, begin(), end, top);
  const keys = areas.map((area) => make("span", {}, swatch(area.color), `${area.name} `, make("b", { text: quantity(present.sample.watts[area.name], "W"), "data-watts": area.name })));
  keys.push(make("span", {}, make("span", { class: "swatch line" }), "mean of the window ", make("b", { text: quantity(moments.at(-1).used_watts, "W") })));
  keys.push(make("span", {}, make("span", { class: "swatch dash" }), fits ? "limit " : "limit, above the chart ", make("b", { text: quantity(limit, "W") })));
  $("power-legend").replaceChildren(...keys);
  $("power-chart").setAttribute("aria-label", `Power over ${span / 60} minutes; now ${areas.map((area) => `${area.name} ${quantity(present.sample.watts[area.name], "W")}`).join(", ")}; limit ${quantity(limit, "W")}`);
}

function showPoints() {
  const used = present.sample.points.filter((point) => point.answered).sort((a, b) => b.answered - a.answered);
  const nth = (point, at) => used.slice(0, at).filter((other) => other.device === point.device).length;
  const areas = used.slice(0, POINTS_SHOWN).map((point, at) => ({ name: point.name, color: shade(point.device, nth(point, at)), values: smooth(rates(point.name)) }));
  const end = moments.at(-1).unix_seconds;
  const times = shown().map((each) => each.unix_seconds);
  const top = areas.length ? 1.15 * Math.max(highest(areas.map((area) => area.values)), 0.9) : 1;
  points.show(times, areas, [], begin(), end, top);
  $("points-chart").setAttribute("aria-label", `Answers per second over ${span / 60} minutes by operating point; the table has the figures`);
  const rows = used.map((point, at) => {
    const now = at < POINTS_SHOWN ? areas[at].values.at(-1) : smooth(rates(point.name)).at(-1);
    const name = make("td", { class: "wraps" }, ...(at < POINTS_SHOWN ? [swatch(areas[at].color)] : []), ...words(point.name), less(`${rate(now ?? 0)} per second`));
    const row = make("tr", { "data-point": point.name }, name, number(percent(point.accuracy, 2)), number(rate(now ?? 0), undefined, "more"), number(count(point.answered), point.answered));
    return row;
  });
  if (!rows.length) rows.push(make("tr", {}, make("td", { class: "empty", colspan: 4, text: "No request was answered yet." })));
  $("points").replaceChildren(...rows);
}

/** Bars on a logarithmic scale: a spiking network may cost a ten-thousandth of a dense one. */
function showEnergies() {
  const groups = new Map();
  for (const point of present.sample.points.filter((each) => each.finals)) {
    const key = `${point.model}/${point.variant} on ${point.device}`;
    const group = groups.get(key) ?? { finals: 0, joules: 0, device: point.device, provenance: point.provenance };
    group.finals += point.finals;
    group.joules += point.joules;
    groups.set(key, group);
  }
  if (!groups.size) {
    $("energies").replaceChildren(make("p", { class: "empty", text: "No figure is final yet." }));
    return;
  }
  const means = [...groups.values()].map((group) => group.joules / group.finals);
  const low = Math.floor(Math.log10(Math.min(...means)) - 0.2);
  const high = Math.max(Math.ceil(Math.log10(Math.max(...means))), low + 2);
  const rows = [...groups].sort((a, b) => a[1].joules / a[1].finals - b[1].joules / b[1].finals).map(([name, group]) => {
    const mean = group.joules / group.finals;
    const bar = make("span");
    bar.style.width = width((Math.log10(mean) - low) / (high - low));
    bar.style.background = shade(group.device);
    return make("div", { "data-energy": name, "data-joules": group.joules, "data-finals": group.finals },
      make("div", { class: "bar-head" }, make("span", {}, name, " ", pill(group.provenance)), make("b", { text: quantity(mean, "J") })),
      make("div", { class: "bar" }, bar),
      make("div", { class: "quiet", text: `${plural(group.finals, "answer")}, ${quantity(group.joules, "J")} together` }));
  });
  const decades = make("div", { class: "scale", "aria-hidden": "true" }, ...[low, (low + high) / 2, high].map((at) => make("span", { text: quantity(Number((10 ** at).toPrecision(1)), "J") })));
  $("energies").replaceChildren(...rows, decades);
}

const HEALTHS = { up: "good", degraded: "warn", starting: "warn", lost: "bad", shed: "bad" };

function showDevices() {
  const { sample } = present;
  const rows = sample.devices.map((device) => {
    const buckets = sample.buckets.filter((bucket) => bucket.device.split("+").includes(device.name));
    const joules = buckets.reduce((sum, bucket) => sum + bucket.nanojoules, 0) / 1e9;
    const watts = Object.entries(sample.watts).find(([name]) => name.split("+").includes(device.name))?.[1] ?? 0;
    const name = make("span", { class: "name" }, device.name, pill(device.health, HEALTHS[device.health]));
    if (device.power !== "on" && device.power !== device.health) name.append(pill(`powered ${device.power}`));
    if (device.simulated) name.append(pill("simulated"));
    const about = [`${device.driver}, static ${quantity(device.static_watts, "W")}`, `${device.queued} queued`, device.detail];
    return make("li", { "data-device": device.name, "data-health": device.health, "data-power": device.power }, name,
      make("span", { class: "watts", text: quantity(watts, "W") }),
      make("span", { class: "about", text: about.filter(Boolean).join(", ") }),
      make("span", { class: "about", text: `${quantity(joules, "J")}, ${buckets[0]?.provenance ?? ""}`, "data-joules": joules }));
  });
  $("devices").replaceChildren(...rows);
}

function showEvents() {
  const rows = events.map((event) => make("li", {}, make("time", { text: clock(event.unix_seconds) }), make("span", { text: event.text, class: event.grave ? "grave" : "" })));
  if (!rows.length) rows.push(make("li", { class: "empty", text: "Nothing has changed since the start." }));
  $("events").replaceChildren(...rows);
}

function showLatest() {
  const rows = present.latest.map((each) => {
    const ran = each.provenance !== "";
    const at = clock(each.unix_seconds), took = quantity(each.seconds, "s");
    const still = ran ? quantity(each.static_nanojoules / 1e9, "J") : "";
    const status = () => pill(each.status.replace("_", " "), each.status === "ok" ? "good" : "warn");
    const by = each.device ? `${each.model}/${each.variant} on ${each.device}` : "nothing";
    return make("tr", { "data-request": each.request_id, "data-nanojoules": each.dynamic_nanojoules },
      make("td", { class: "number" }, String(each.request_id), make("div", { class: "less" }, status())), make("td", { text: at, class: "more" }),
      make("td", { class: "more" }, status()),
      make("td", { class: "wraps" }, ...words(by), less(at, each.steps && plural(each.steps, "step"), `took ${took}`)),
      number(each.steps || "", undefined, "more"), number(took, undefined, "more"),
      make("td", { class: "number" }, ran ? quantity(each.dynamic_nanojoules / 1e9, "J") : "", less(still && `${still} static`), less(each.provenance)),
      number(still, undefined, "more"),
      make("td", { class: "more" }, ...(ran ? [pill(each.provenance)] : [])));
  });
  if (!rows.length) rows.push(make("tr", {}, make("td", { class: "empty", colspan: 9, text: "No request has ended yet." })));
  $("latest").replaceChildren(...rows);
}

/** Show the policies; buttons stay the same elements, so that the keyboard's focus stays where it is. */
function showPolicies() {
  const group = $("policies");
  const names = present.policies.map((policy) => policy.name);
  if (JSON.stringify(names) !== group.dataset.names || String(control) !== group.dataset.control) {
    group.dataset.names = JSON.stringify(names);
    group.dataset.control = control;
    group.replaceChildren(...names.map((name) => {
      const button = make("button", { type: "button", "data-policy": name }, name, make("small"));
      button.disabled = !control;
      button.addEventListener("click", () => switchTo(name));
      return button;
    }));
  }
  $("locked").hidden = control;
  [...group.children].forEach((button, at) => {
    const policy = present.policies[at];
    button.setAttribute("aria-pressed", policy.name === present.sample.policy);
    button.lastChild.textContent = quantity(policy.budget_watts, "W");
    button.title = `${policy.strategy}, at most ${policy.budget_watts} W over ${policy.window_seconds} s`;
  });
}

async function switchTo(policy) {
  notice("");
  try {
    const answer = await fetch("policy", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ policy }) });
    if (!answer.ok) notice(`Policy ${policy} was not put in force: ${(await answer.text()).trim()}`);
  } catch {
    notice(`Policy ${policy} was not put in force: the daemon does not answer.`);
  }
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function show() {
  showPolicies();
  if (paused) return;
  document.body.dataset.sample = present.sample.unix_seconds;
  document.body.dataset.policy = present.sample.policy;
  document.title = `jouled: ${quantity(Object.values(present.sample.watts).reduce((sum, each) => sum + each, 0), "W")}, ${present.sample.policy}`;
  showFigures();
  showPower();
  showPoints();
  showEnergies();
  showDevices();
  showEvents();
  showLatest();
}

function link(state) {
  $("link").className = `link ${state}`;
  const text = { live: "live", lost: "no connection" }[state];
  if ($("link").textContent !== text) $("link").textContent = text;
}

let source = null;

/** Listen to the daemon, and again when it has gone away. */
function listen() {
  source?.close();
  source = new EventSource("events");
  source.addEventListener("control", ({ data }) => { control = JSON.parse(data); });
  source.addEventListener("past", ({ data }) => {
    const past = JSON.parse(data);
    $("version").textContent = past.version;
    if (past.moments.length) remember(past.moments);
  });
  source.addEventListener("present", ({ data }) => {
    present = JSON.parse(data);
    remember([moment(present)]);
    const last = events[0]?.unix_seconds ?? 0;
    events = [...present.events.filter((event) => event.unix_seconds > last).reverse(), ...events].slice(0, EVENTS_SHOWN);
    heard = Date.now();
    link("live");
    show();
  });
  source.addEventListener("error", () => link("lost"));
}

setInterval(() => {
  if (Date.now() - heard < SILENT_MILLISECONDS) return;
  link("lost");
  heard = Date.now();
  listen();
}, 500);

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  $("pause").textContent = paused ? "Resume" : "Pause";
  if (!paused && present) show();
});

for (const button of document.querySelectorAll("[data-span]")) {
  button.addEventListener("click", () => {
    span = Number(button.dataset.span);
    for (const each of document.querySelectorAll("[data-span]")) each.setAttribute("aria-pressed", each === button);
    if (present) show();
  });
}

heard = Date.now();
listen();
