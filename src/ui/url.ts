// SPDX-License-Identifier: MIT
// What a link reproduces: the view and its state, in the part of the URL that no server sees.
import { useEffect, useState } from "preact/hooks";

export interface Pin { layer: number; feature: number; op: string; value: number; on: boolean }
export interface State { view: string; text: string; chat: boolean; shade: string; positions: string; pins: Pin[] }

function pinOf(text: string): Pin | undefined {
  const [where, op, value, on] = text.split("~");
  const [layer, feature] = (where ?? "").split(".").map(Number);
  if (!Number.isInteger(layer) || !Number.isInteger(feature)) return undefined;
  const number = Number(value);
  return {
    layer: layer!, feature: feature!, op: ["add", "set", "scale", "ablate"].includes(op ?? "") ? op! : "add",
    value: Number.isFinite(number) ? number : 0, on: on !== "0",
  };
}

const textOf = (p: Pin) => `${p.layer}.${p.feature}~${p.op}~${p.value}~${p.on ? 1 : 0}`;

export function read(): State {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const params = new URLSearchParams(query ?? "");
  return {
    view: path || "setup", text: params.get("text") ?? "Once upon a time there was a small red fox named Mia.",
    chat: params.has("chat"), shade: params.get("shade") ?? "total", positions: params.get("positions") ?? "all",
    pins: params.getAll("pin").map(pinOf).filter((p): p is Pin => p !== undefined),
  };
}

function write(state: State, push: boolean) {
  const params = new URLSearchParams({ text: state.text });
  if (state.chat) params.set("chat", "");
  if (state.shade !== "total") params.set("shade", state.shade);
  if (state.positions !== "all") params.set("positions", state.positions);
  for (const pin of state.pins) params.append("pin", textOf(pin));
  history[push ? "pushState" : "replaceState"](null, "", `#/${state.view}?${params}`);
}

// The state, and how to change it: another view is a step in the history, the rest is not.
export function useUrl(): [State, (change: Partial<State>) => void] {
  const [state, setState] = useState(read);
  useEffect(() => {
    const reread = () => setState(read());
    addEventListener("popstate", reread);
    return () => removeEventListener("popstate", reread);
  }, []);
  return [state, (change) => setState((old) => {
    const next = { ...old, ...change };
    write(next, next.view !== old.view);
    return next;
  })];
}
