// SPDX-License-Identifier: MIT
// What a link reproduces: the view and its state, in the part of the URL that no server sees.
import { useCallback, useEffect, useState } from "preact/hooks";

export interface Pin { layer: number; feature: number; op: string; value: number; on: boolean }
export interface State {
  view: string; model: string; sae: string; text: string; chat: boolean; layer: number | null; shade: string; token: number; positions: string;
  pins: Pin[];
}

export const OPS = ["add", "set", "scale", "ablate"];
export const POSITIONS = ["all", "prompt", "generated"];
const EXAMPLE = "Once upon a time there was a small red fox named Mia.";
const WRITE_MS = 200; // browsers allow about three changes of the URL a second

const wholeOf = (text: string | null, otherwise: number) => (text !== null && /^\d{1,9}$/.test(text) ? Number(text) : otherwise);

function pinOf(text: string): Pin | undefined {
  const [where, op, value, on] = text.split("~");
  const [layer, feature] = (where ?? "").split(".").map((x) => wholeOf(x, -1));
  if (layer === undefined || feature === undefined || layer < 0 || feature < 0) return undefined;
  const number = Number(value);
  return {
    layer, feature, op: OPS.includes(op ?? "") ? op! : "add", value: Number.isFinite(number) ? number : 0, on: on !== "0",
  };
}

const textOf = (p: Pin) => `${p.layer}.${p.feature}~${p.op}~${p.value}~${p.on ? 1 : 0}`;

// A link may be anybody's: what is none of its values is as if it were not there.
export function read(): State {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const params = new URLSearchParams(query ?? "");
  const layer = wholeOf(params.get("layer"), -1), pins = new Map<string, Pin>();
  for (const pin of params.getAll("pin").map(pinOf)) if (pin) pins.set(`${pin.layer}.${pin.feature}`, pin);
  const positions = params.get("positions") ?? "";
  return {
    view: path || "setup", model: params.get("model") ?? "", sae: params.get("sae") ?? "", text: params.get("text") ?? EXAMPLE, chat: params.has("chat"), layer: layer < 0 ? null : layer,
    shade: wholeOf(params.get("shade"), -1) < 0 ? "total" : params.get("shade")!, token: wholeOf(params.get("token"), 0),
    positions: POSITIONS.includes(positions) ? positions : "all", pins: [...pins.values()].slice(0, 64),
  };
}

function write(state: State, push: boolean) {
  const params = new URLSearchParams({ text: state.text });
  if (state.model) params.set("model", state.model);
  if (state.sae) params.set("sae", state.sae);
  if (state.chat) params.set("chat", "");
  if (state.layer !== null) params.set("layer", String(state.layer));
  if (state.shade !== "total") params.set("shade", state.shade);
  if (state.token > 0) params.set("token", String(state.token));
  if (state.positions !== "all") params.set("positions", state.positions);
  for (const pin of state.pins) params.append("pin", textOf(pin));
  history[push ? "pushState" : "replaceState"](null, "", `#/${state.view}?${params}`);
}

let waiting: State | null = null, timer = 0;

function flush() {
  clearTimeout(timer);
  if (waiting) write(waiting, false);
  waiting = null;
}

function writeSoon(state: State) {
  waiting = state;
  clearTimeout(timer);
  timer = window.setTimeout(flush, WRITE_MS);
}

// The state, and how to change it: another view is a step in the history, the rest is not.
export function useUrl(): [State, (change: Partial<State>) => void] {
  const [state, setState] = useState(read);
  useEffect(() => {
    const reread = () => {
      waiting = null;
      setState(read());
    };
    addEventListener("popstate", reread);
    addEventListener("pagehide", flush);
    return () => {
      removeEventListener("popstate", reread);
      removeEventListener("pagehide", flush);
    };
  }, []);
  const change = useCallback((part: Partial<State>) => setState((old) => {
    const next = { ...old, ...part };
    if (next.view === old.view) {
      writeSoon(next);
    } else {
      flush();
      write(next, true);
    }
    return next;
  }), []);
  return [state, change];
}
