// SPDX-License-Identifier: MIT
import { useEffect, useRef, useState } from "preact/hooks";
import { call, get, type Message, type Next, type Patch, stream } from "../api";
import { Bar, Empty, Failure, Panel } from "../parts";
import { edits, same } from "../pins";
import { messagesOf, TextForm } from "../text";
import { number, shown } from "../tokens";
import type { Pin, State } from "../url";
import type { ViewProps } from "../views";

const N_NEXT = 10, N_WRITTEN = 80;
const OPS: [string, string][] = [["add", "add"], ["set", "set to"], ["scale", "scale by"], ["ablate", "ablate"]];
const POSITIONS: [string, string][] = [["all", "everywhere"], ["prompt", "in the prompt"], ["generated", "in what is written"]];

function useNext({ live, state }: ViewProps) {
  const [rows, setRows] = useState<Next[]>([]);
  const [error, setError] = useState<Error | null>(null);
  const ready = live.model?.status === "ready";
  const text: { text: string } | { messages: Message[] } =
    state.chat ? { messages: messagesOf(state.text) } : { text: state.text };
  const body = JSON.stringify({ ...text, edits: edits(state.pins, state.positions), top: N_NEXT });
  useEffect(() => {
    if (!ready || !state.text) return;
    const mine = new AbortController();
    call<{ tokens: Next[] }>("POST", "/v1/next-tokens", JSON.parse(body), mine.signal).then((answer) => {
      setRows(answer.tokens);
      setError(null);
    }, (failure) => {
      if (!mine.signal.aborted) setError(failure);
    });
    return () => mine.abort();
  }, [body, ready]);
  return { rows, error };
}

function NextTokens(props: ViewProps) {
  const { rows, error } = useNext(props);
  const max = Math.max(...rows.flatMap((r) => [r.before, r.after]), 1e-9);
  const best = (key: "before" | "after") => rows.reduce((a, b) => (b[key] > a[key] ? b : a), rows[0]!);
  const diverges = rows.length > 0 && best("before") !== best("after");
  return (
    <Panel title="Next token" aside={diverges && <span class="state warning">another token now</span>}>
      <Failure error={error} />
      {rows.length === 0 && !error && <Empty>The likeliest next tokens show here, before and after the edits.</Empty>}
      <table class="next">
        <thead><tr><th>token</th><th>original</th><th>edited</th></tr></thead>
        <tbody>
          {[...rows].sort((a, b) => Math.max(b.before, b.after) - Math.max(a.before, a.after)).map((r) => (
            <tr key={r.token_id} class={diverges && (r === best("before") || r === best("after")) ? "marked" : ""}>
              <td><span class="token">{shown(r.token, r.bytes)}</span></td>
              <td><Bar share={r.before / max} kind="before" /> <span class="numbers">{(100 * r.before).toFixed(1)}%</span></td>
              <td><Bar share={r.after / max} /> <span class="numbers">{(100 * r.after).toFixed(1)}%</span></td>
            </tr>
          ))}
        </tbody>
      </table>
    </Panel>
  );
}

// A slider that is dragged shows its value at once; the edit is made when it is let go.
function Slider(props: { pin: Pin; set: (change: Partial<Pin>) => void; unpin: () => void }) {
  const { pin, set } = props, name = `Feature ${pin.feature}`;
  const [shownValue, show] = useState(pin.value);
  useEffect(() => show(pin.value), [pin.value]);
  const reach = pin.op === "scale" ? 5 : Math.max(20, Math.ceil(Math.abs(pin.value) * 2));
  return (
    <div class={`slider${pin.on ? "" : " off"}`}>
      <label class="check"><input type="checkbox" checked={pin.on} onChange={(e) => set({ on: e.currentTarget.checked })} />
        <strong>{pin.feature}</strong> <small>layer {pin.layer}</small></label>
      <select aria-label={`${name}: what to do`} value={pin.op} onChange={(e) => set({ op: e.currentTarget.value })}>
        {OPS.map(([op, title]) => <option key={op} value={op}>{title}</option>)}
      </select>
      <input type="range" aria-label={`${name}: value`} min={-reach} max={reach} step={reach / 200} value={shownValue}
        disabled={pin.op === "ablate"} onInput={(e) => show(Number(e.currentTarget.value))}
        onChange={(e) => set({ value: Number(e.currentTarget.value) })} />
      <output class="numbers">{pin.op === "ablate" ? "0" : number(shownValue)}</output>
      <button type="button" class="quiet" aria-label={`Unpin feature ${pin.feature}`} onClick={props.unpin}>✕</button>
    </div>
  );
}

function Sliders(props: ViewProps) {
  const { state, change } = props;
  const put = (pin: Pin, more: Partial<Pin>) => change({ pins: state.pins.map((p) => (same(p, pin) ? { ...p, ...more } : p)) });
  return (
    <>
      {state.pins.length === 0 && <Empty>Pin features in Explore, or name one:</Empty>}
      {state.pins.map((pin) => (
        <Slider key={`${pin.layer}.${pin.feature}`} pin={pin} set={(more) => put(pin, more)}
          unpin={() => change({ pins: state.pins.filter((p) => !same(p, pin)) })} />
      ))}
      <AddFeature {...props} />
    </>
  );
}

function AddFeature({ live, state, change }: ViewProps) {
  const [feature, setFeature] = useState("");
  const layer = live.sae?.layers?.[0]?.layer_idx;
  const add = (event: Event) => {
    event.preventDefault();
    const pin = { layer: layer!, feature: Number(feature), op: "add", value: 4, on: true };
    if (!state.pins.some((p) => same(p, pin))) change({ pins: [...state.pins, pin] });
    setFeature("");
  };
  return (
    <form class="line" onSubmit={add}>
      <label class="short">feature <input inputMode="numeric" pattern="[0-9]+" required value={feature}
        onInput={(e) => setFeature(e.currentTarget.value)} /></label>
      <button disabled={layer === undefined}>Add</button>
      <label>act <select value={state.positions} onChange={(e) => change({ positions: e.currentTarget.value })}>
        {POSITIONS.map(([value, title]) => <option key={value} value={value}>{title}</option>)}
      </select></label>
    </form>
  );
}

interface Written { text: string; done: boolean }
const NOTHING: Written = { text: "", done: false };

async function write(state: State, pins: Pin[], signal: AbortSignal, onText: (w: Written) => void) {
  const common = { temperature: 0, max_tokens: N_WRITTEN, stream: true, edits: edits(pins, state.positions) };
  const [path, body] = state.chat ? ["/v1/chat/completions", { messages: messagesOf(state.text), ...common }]
    : ["/v1/completions", { prompt: state.text, ...common }];
  let text = "";
  for await (const part of stream<any>(path, body, signal)) {
    const choice = part.choices[0];
    text += choice?.text ?? choice?.delta?.content ?? "";
    onText({ text, done: false });
  }
  onText({ text, done: true });
}

// Where two texts part, on a whole character.
function divergence(a: Written, b: Written): number {
  const x = [...a.text], y = [...b.text], n = Math.min(x.length, y.length);
  let i = 0;
  while (i < n && x[i] === y[i]) i++;
  const over = i < n || (a.done && b.done && x.length !== y.length);
  return over ? x.slice(0, i).join("").length : Infinity;
}

function Side(props: { title: string; written: Written; from: number }) {
  const { text, done } = props.written;
  return (
    <div class="side">
      <h3>{props.title}</h3>
      <p class="written" aria-live="off">
        {text.slice(0, props.from)}{props.from < text.length && <mark>{text.slice(props.from)}</mark>}
        {!done && text !== "" && <span class="caret" aria-hidden="true" />}
      </p>
    </div>
  );
}

function Answers(props: ViewProps) {
  const { live, state } = props;
  const [sides, setSides] = useState<[Written, Written]>([NOTHING, NOTHING]);
  const [error, setError] = useState<Error | null>(null);
  const [busy, setBusy] = useState(false);
  const running = useRef<AbortController>();
  const run = async () => {
    running.current?.abort();
    const mine = (running.current = new AbortController());
    setSides([NOTHING, NOTHING]);
    setError(null);
    setBusy(true);
    try {
      await Promise.all([
        write(state, [], mine.signal, (w) => setSides(([, b]) => [w, b])),
        write(state, state.pins, mine.signal, (w) => setSides(([a]) => [a, w])),
      ]);
    } catch (failure) {
      if (!mine.signal.aborted) setError(failure as Error);
    }
    setBusy(false);
  };
  useEffect(() => () => running.current?.abort(), []);
  const from = divergence(...sides);
  return (
    <Panel title="Text">
      <TextForm {...props} action="Write" busy={busy} disabled={live.model?.status !== "ready"} run={run} />
      {busy && <button type="button" onClick={() => running.current?.abort()}>Stop</button>}
      {live.model?.status !== "ready" && <Empty>No model is loaded: see Set up (key 1).</Empty>}
      <Failure error={error} />
      <div class="sides">
        <Side title="Original" written={sides[0]} from={from} />
        <Side title="Edited" written={sides[1]} from={from} />
      </div>
    </Panel>
  );
}

async function exportPatches() {
  const text = JSON.stringify(await call("POST", "/export-patches", {}), null, 2);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "patches.json";
  link.click();
  URL.revokeObjectURL(link.href);
}

function Patches({ state, change }: ViewProps) {
  const [list, setList] = useState<Patch[]>([]);
  const [error, setError] = useState<Error | null>(null);
  const attempt = async (work: () => Promise<unknown>) => {
    try {
      setError(null);
      await work();
    } catch (failure) {
      setError(failure as Error);
    }
    await get<Patch[]>("/patches").then(setList, setError);
  };
  useEffect(() => void attempt(async () => undefined), []);
  const save = () => attempt(async () => {
    for (const p of state.pins.filter((x) => x.op !== "ablate")) {
      await call("POST", "/patch", { feature_id: p.feature, layer_idx: p.layer, op: p.op, strength: p.value, enabled: p.on });
    }
  });
  const load = (file: File | undefined) => attempt(async () => {
    const patches = JSON.parse(await file!.text()).patches as Patch[];
    for (const p of patches) {
      await call("POST", "/patch", { feature_id: p.feature_idx, layer_idx: p.layer_idx, op: p.op, strength: p.strength,
        enabled: p.isEnabled, name: p.name });
    }
  });
  const pick = () => change({
    pins: list.map((p) => ({ layer: p.layer_idx, feature: p.feature_idx, op: p.op, value: p.strength, on: p.isEnabled })),
  });
  return (
    <Panel title="Patches" aside={<small>edits that the server keeps</small>}>
      <Failure error={error} />
      {list.length === 0 && <Empty>None saved. A patch acts in POST /inference until it is switched off.</Empty>}
      {list.map((p) => (
        <div class="line" key={p.id}>
          <label class="check"><input type="checkbox" checked={p.isEnabled}
            onChange={() => attempt(() => call("POST", `/patch/${p.id}/toggle`, {}))} /> {p.name}</label>
          <span class="numbers">{p.op} {number(p.strength)}</span>
          <button type="button" class="quiet" aria-label={`Delete the patch ${p.name}`}
            onClick={() => attempt(() => call("DELETE", `/patch/${p.id}`, undefined))}>✕</button>
        </div>
      ))}
      <div class="line">
        <button type="button" disabled={state.pins.length === 0} onClick={save}>Save as patches</button>
        <button type="button" disabled={list.length === 0} onClick={pick}>To the sliders</button>
        <button type="button" disabled={list.length === 0} onClick={() => attempt(exportPatches)}>Export</button>
        <label class="button">Import <input type="file" accept="application/json" onChange={(e) => load(e.currentTarget.files?.[0])} /></label>
      </div>
    </Panel>
  );
}

export function Steer(props: ViewProps) {
  return (
    <div class="columns">
      <div class="stack">
        <Answers {...props} />
        <NextTokens {...props} />
      </div>
      <div class="stack">
        <Panel title="Features"><Sliders {...props} /></Panel>
        <Patches {...props} />
      </div>
    </div>
  );
}
