// How figures are written: the same four digits and units as in the commands.

const PREFIXES = [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];

/** Split a quantity into four significant digits and its unit with a prefix. */
export function scaled(value, unit) {
  if (!value) return ["0", unit];
  const [factor, prefix] = PREFIXES.find(([factor]) => Math.abs(value) >= factor) ?? PREFIXES.at(-1);
  return [String(Number((value / factor).toPrecision(4))), prefix + unit];
}

export const quantity = (value, unit) => scaled(value, unit).join(" ");
export const percent = (fraction, digits = 1) => `${(100 * fraction).toFixed(digits)} %`;
export const count = (value) => value.toLocaleString("en-US");
export const clock = (unixSeconds) => new Date(1000 * unixSeconds).toLocaleTimeString("en-GB");
export const rate = (perSecond) => (perSecond < 10 ? perSecond.toFixed(1) : perSecond.toFixed(0));
