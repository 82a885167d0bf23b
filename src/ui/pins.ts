// SPDX-License-Identifier: MIT
// Pinned features: what Explore collects and Steer turns.
import type { Edit, SaeLayer } from "./api";
import type { Live } from "./live";
import type { Pin, State } from "./url";

export const same = (a: { layer: number; feature: number }, b: { layer: number; feature: number }) =>
  a.layer === b.layer && a.feature === b.feature;

// A pin starts with a push as large as the feature fires by itself.
export function toggle(pins: Pin[], layer: number, feature: number, value: number): Pin[] {
  const pin: Pin = { layer, feature, op: "add", value: Math.round(value * 100) / 100 || 4, on: true };
  return pins.some((p) => same(p, pin)) ? pins.filter((p) => !same(p, pin)) : [...pins, pin];
}

export const isLoaded = (live: Live, pin: Pin) => saeOf(live, pin.layer) !== undefined;

export const saeOf = (live: Live, layer: number): SaeLayer | undefined =>
  live.sae?.layers?.find((l) => l.layer_idx === layer);

// The layer that is looked at: the one of the link where its SAE is loaded, else the lowest.
export function layerOf(live: Live, state: State): number | undefined {
  const layers = live.sae?.layers ?? [];
  return (layers.find((l) => l.layer_idx === state.layer) ?? layers[0])?.layer_idx;
}

// Those that act: switched on, and their SAE is there.
export function edits(live: Live, pins: Pin[], positions: string): Edit[] {
  return pins.filter((p) => p.on && isLoaded(live, p)).map((p) => ({
    layer: p.layer, feature: p.feature, op: p.op, value: p.value, positions,
  }));
}
