// Stacked areas over time, drawn by uPlot.

const LIGHT = ["#0072b2", "#d98200", "#00896a", "#b0578d", "#3a9bd1", "#c14a00", "#6b6b2f", "#5b4db2"];
const DARK = ["#4aa3df", "#f0a63a", "#35c497", "#dd8fbd", "#86c8ee", "#ff8552", "#c2c267", "#a598f5"];
const dark = matchMedia("(prefers-color-scheme: dark)");

/** Give the color of the `index`th device, and of its `nth` operating point a paler one. */
export function color(index, nth = 0) {
  const full = (dark.matches ? DARK : LIGHT)[Math.max(index, 0) % LIGHT.length];
  return nth ? mixed(full, Math.max(1 - 0.35 * nth, 0.3)) : full;
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Mix a color with the ground of the chart, so that areas that cover each other do not add up. */
function mixed(hex, share) {
  const ground = style("--surface");
  const channel = (from, at) => parseInt(from.slice(at, at + 2), 16);
  const parts = [1, 3, 5].map((at) => Math.round(channel(hex, at) * share + channel(ground, at) * (1 - share)));
  return `#${parts.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

/** A stack of areas, with lines above it that do not add up. */
export class Stack {
  constructor(element, unit) {
    this.element = element;
    this.unit = unit;
    this.shape = "";
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(element);
    dark.addEventListener("change", () => { this.shape = ""; this.last && this.show(...this.last); });
  }

  size() {
    return { width: Math.max(this.element.clientWidth, 200), height: this.element.clientHeight };
  }

  /** Show `areas` and `lines`, each {name, color, values}, over `times` from `begin` to `end`, up to `top`. */
  show(times, areas, lines, begin, end, top) {
    this.last = [times, areas, lines, begin, end, top];
    const sums = [];
    for (const area of areas) {
      const below = sums.at(-1);
      sums.push(area.values.map((value, at) => (value === null ? null : value + (below?.[at] ?? 0))));
    }
    const data = [times, ...sums.reverse(), ...lines.map((line) => line.values)];
    const shape = JSON.stringify([areas, lines].map((each) => each.map(({ name, color }) => [name, color])));
    this.range = { begin, end, top };
    if (shape !== this.shape) {
      this.shape = shape;
      this.plot?.destroy();
      this.plot = new uPlot(this.options(areas, lines), data, this.element);
    } else {
      this.plot.setData(data);
    }
  }

  options(areas, lines) {
    const quiet = style("--quiet");
    const axis = { stroke: quiet, grid: { stroke: style("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const clock = (self, moments) => moments.map((moment) => new Date(1000 * moment).toLocaleTimeString("en-GB"));
    return {
      ...this.size(),
      padding: [10, 8, 0, 0],
      cursor: { show: false },
      legend: { show: false },
      scales: {
        x: { time: true, range: () => [this.range.begin, this.range.end] },
        y: { range: () => [0, this.range.top] },
      },
      axes: [
        { ...axis, values: clock, size: 30, space: 90, grid: { show: false } },
        { ...axis, size: 58, space: 36, values: (self, values) => values.map((value) => `${Number(value.toPrecision(3))} ${this.unit}`) },
      ],
      series: [
        {},
        ...[...areas].reverse().map((area) => ({ label: area.name, stroke: area.color, fill: mixed(area.color, 0.4), width: 1.5, points: { show: false } })),
        ...lines.map((line) => ({ label: line.name, stroke: line.color || style("--ink"), width: 2, dash: line.dash, paths: line.steps ? uPlot.paths.stepped({ align: 1 }) : undefined, points: { show: false } })),
      ],
    };
  }
}

/** The color of the limit, which follows light and dark. */
export const limitColor = () => style("--grave");
