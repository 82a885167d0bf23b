// SPDX-License-Identifier: MIT
// Pinned features: what Explore collects and Steer turns.
import type { Edit } from "./api";
import type { Pin } from "./url";

export const same = (a: { layer: number; feature: number }, b: { layer: number; feature: number }) =>
  a.layer === b.layer && a.feature === b.feature;

// A pin starts with a push as large as the feature fires by itself.
export function toggle(pins: Pin[], layer: number, feature: number, value: number): Pin[] {
  const pin: Pin = { layer, feature, op: "add", value: Math.round(value * 100) / 100, on: true };
  return pins.some((p) => same(p, pin)) ? pins.filter((p) => !same(p, pin)) : [...pins, pin];
}

export function edits(pins: Pin[], positions: string): Edit[] {
  return pins.filter((p) => p.on).map((p) => ({ layer: p.layer, feature: p.feature, op: p.op, value: p.value, positions }));
}
