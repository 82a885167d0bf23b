// SPDX-License-Identifier: MIT
// Steer: pinned features are turned, and what the model says is compared.
import type { MutableRef } from "preact/hooks";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { call, type Next, type Patch, stream } from "../api";
import { Bar, Empty, Failure, LayerChoice, Panel } from "../parts";
import { readPatches, save } from "../patches";
import { edits, isLoaded, layerOf, same, saeOf } from "../pins";
import { promptOf, TextForm } from "../text";
import { number, shown } from "../tokens";
import { OPS, type Pin, POSITIONS, type State } from "../url";
import type { View, ViewProps } from "../views";

const N_NEXT = 10, N_WRITTEN = 80, TYPING_MS = 200;
const OP_NAMES: Record<string, string> = { add: "add", set: "set to", scale: "scale by", ablate: "ablate" };
const POSITION_NAMES: Record<string, string> = { all: "everywhere", prompt: "in the prompt", generated: "in what is written" };

// Asks with the newest body: at once, but while a slider is dragged only when the one before is answered.
class Asker {
  private running: AbortController | null = null;
  private waiting: string | null = null;
  constructor(private onAnswer: (rows: Next[], body: string) => void, private onError: (error: Error) => void) {}

  ask(body: string, dragged: boolean) {
    if (this.running && dragged) this.waiting = body;
    else void this.run(body);
  }

  release() {
    if (this.waiting) void this.run(this.waiting);
  }

  stop() {
    this.running?.abort();
    this.running = this.waiting = null;
  }

  private async run(body: string) {
    this.stop();
    const mine = (this.running = new AbortController());
    try {
      const answer = await call<{ tokens: Next[] }>("POST", "/v1/next-tokens", JSON.parse(body), mine.signal);
      this.onAnswer(answer.tokens, body);
    } catch (failure) {
      if (mine.signal.aborted) return;
      this.onError(failure as Error);
    }
    if (this.running !== mine) return;
    this.running = null;
    this.release();
  }
}

interface Drag { on: boolean; release: () => void }

function useNext({ live, state }: ViewProps, drag: MutableRef<Drag>) {
  const [rows, setRows] = useState<Next[]>([]);
  const [error, setError] = useState<Error | null>(null);
  const asker = useRef<Asker>();
  asker.current ??= new Asker((tokens) => {
    setRows(tokens);
    setError(null);
  }, setError);
  const model = live.model?.status === "ready" ? live.model.modelName : undefined;
  const prompt = JSON.stringify(promptOf(state)), before = useRef("");
  const list = JSON.stringify(edits(live, state.pins, state.positions));
  useLayoutEffect(() => {
    if (model === undefined || !state.text) return asker.current!.stop();
    const body = `{"top":${N_NEXT},"edits":${list},${prompt.slice(1)}`;
    const typed = before.current !== "" && before.current !== prompt;
    before.current = prompt;
    if (!typed) return asker.current!.ask(body, drag.current.on);
    const timer = setTimeout(() => asker.current!.ask(body, false), TYPING_MS);
    return () => clearTimeout(timer);
  }, [model, prompt, list]);
  useEffect(() => {
    drag.current.release = () => asker.current!.release();
    return () => asker.current!.stop();
  }, []);
  return { rows: model === undefined ? [] : rows, error };
}

const share = (p: number) => (p > 0 && p < 0.001 ? "<0.1%" : `${(100 * p).toFixed(1)}%`);

function changeText(r: Next): string {
  const points = 100 * (r.after - r.before);
  return Math.abs(points) < 0.05 ? "" : `${points > 0 ? "+" : "−"}${Math.abs(points).toFixed(1)}`;
}

// The likeliest of either side, in the order of the original, so that rows keep their places while a slider moves.
function chosen(rows: Next[]): Next[] {
  const top = [...rows].sort((a, b) => Math.max(b.before, b.after) - Math.max(a.before, a.after)).slice(0, N_NEXT);
  return top.sort((a, b) => b.before - a.before);
}

function Rows({ rows, marked }: { rows: Next[]; marked: Next[] }) {
  const max = Math.max(...rows.flatMap((r) => [r.before, r.after]), 1e-9);
  return (
    <table class="next">
      <thead><tr><th>token</th><th class="grow"><span class="sr">bars</span></th><th>original</th><th>edited</th><th>change</th></tr></thead>
      <tbody>
        {rows.map((r) => (
          <tr key={r.token_id} class={marked.includes(r) ? "marked" : ""}>
            <td><span class="token" title={`id ${r.token_id}`}>{shown(r.token, r.bytes)}</span></td>
            <td class="grow"><Bar share={r.before / max} kind="before" /><Bar share={r.after / max} /></td>
            <td class="numbers">{share(r.before)}</td><td class="numbers">{share(r.after)}</td>
            <td class="numbers">{changeText(r)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function NextTokens(props: ViewProps & { drag: MutableRef<Drag> }) {
  const { rows, error } = useNext(props, props.drag);
  const best = (key: "before" | "after") => rows.reduce((a, b) => (b[key] > a[key] ? b : a), rows[0]!);
  const diverges = rows.length > 0 && best("before") !== best("after");
  return (
    <Panel title="Next token" aside={<span class="state warning" role="status">{diverges && "another token is likeliest now"}</span>}>
      <Failure error={error} />
      <div class="nexts">
        {rows.length > 0 ? <Rows rows={chosen(rows)} marked={diverges ? [best("before"), best("after")] : []} />
          : !error && <Empty>The likeliest next tokens show here, before and after the edits.</Empty>}
      </div>
    </Panel>
  );
}

// How far a slider goes. It may grow, but not while it is dragged.
const reachOf = (pin: Pin) => (pin.op === "scale" ? Math.max(5, Math.ceil(Math.abs(pin.value))) : Math.max(20, Math.ceil(Math.abs(pin.value) * 2)));

interface SliderProps { pin: Pin; loaded: boolean; drag: MutableRef<Drag>; set: (change: Partial<Pin>) => void; unpin: () => void }

function Slider({ pin, loaded, drag, set, unpin }: SliderProps) {
  const name = `Feature ${pin.feature}`, acts = pin.op !== "ablate";
  const [reach, setReach] = useState(reachOf(pin));
  useEffect(() => {
    if (!drag.current.on) setReach((old) => (Math.abs(pin.value) > old ? reachOf(pin) : old));
  }, [pin.value]);
  useEffect(() => setReach(reachOf(pin)), [pin.op]);
  const slide = (event: Event) => {
    drag.current.on = true;
    set({ value: Number((event.currentTarget as HTMLInputElement).value) });
  };
  const settle = (event: Event) => {
    drag.current.on = false;
    set({ value: Number((event.currentTarget as HTMLInputElement).value) });
    drag.current.release();
  };
  const type = (event: Event) => {
    const value = (event.currentTarget as HTMLInputElement).valueAsNumber;
    if (Number.isFinite(value)) set({ value: Math.max(-1e6, Math.min(1e6, value)) });
  };
  return (
    <div class={`slider${pin.on && loaded ? "" : " off"}`} role="group" aria-label={name}>
      <label class="check"><input type="checkbox" checked={pin.on} onChange={(e) => set({ on: e.currentTarget.checked })} />
        <strong>{pin.feature}</strong></label>
      <select aria-label={`${name}: what to do`} value={pin.op} onChange={(e) => set({ op: e.currentTarget.value })}>
        {OPS.map((op) => <option key={op} value={op}>{OP_NAMES[op]}</option>)}
      </select>
      <input type="number" aria-label={`${name}: exact value`} step="any" value={acts ? pin.value : 0} disabled={!acts} onChange={type} />
      <button type="button" class="quiet" aria-label={`Unpin feature ${pin.feature}`} onClick={unpin}>✕</button>
      <input type="range" aria-label={`${name}: value`} min={-reach} max={reach} step={reach / 200} value={pin.value}
        disabled={!acts} onInput={slide} onChange={settle} />
      <small>layer {pin.layer}</small>
      {!loaded && <small class="wide">No SAE of layer {pin.layer} is loaded: this does nothing.</small>}
    </div>
  );
}

function AddFeature({ live, state, change }: ViewProps) {
  const [feature, setFeature] = useState("");
  const layer = layerOf(live, state), n = layer === undefined ? 0 : saeOf(live, layer)!.features;
  const wrong = feature !== "" && n > 0 && !(/^\d{1,9}$/.test(feature) && Number(feature) < n);
  const add = (event: Event) => {
    event.preventDefault();
    if (layer === undefined || wrong) return;
    const pin = { layer, feature: Number(feature), op: "add", value: 4, on: true };
    if (!state.pins.some((p) => same(p, pin))) change({ pins: [...state.pins, pin] });
    setFeature("");
  };
  return (
    <form onSubmit={add} class="stack">
      <div class="line">
        <label class="short">feature <input id="feature" inputMode="numeric" required value={feature} aria-invalid={wrong}
          placeholder={n ? `0 – ${n - 1}` : ""} onInput={(e) => setFeature(e.currentTarget.value.trim())} /></label>
        <button disabled={layer === undefined || wrong || feature === ""}>Add</button>
        <LayerChoice live={live} layer={layer} change={change} />
        <label>acts <select value={state.positions} onChange={(e) => change({ positions: e.currentTarget.value })}>
          {POSITIONS.map((value) => <option key={value} value={value}>{POSITION_NAMES[value]}</option>)}
        </select></label>
      </div>
      {wrong && <p class="failure" role="alert">The SAE of layer {layer} has the features 0 to {n - 1}.</p>}
    </form>
  );
}

function Sliders(props: ViewProps & { drag: MutableRef<Drag> }) {
  const { live, state, change, drag } = props;
  const put = (pin: Pin, more: Partial<Pin>) => change({ pins: state.pins.map((p) => (same(p, pin) ? { ...p, ...more } : p)) });
  const none = !live.sae?.layers?.length;
  return (
    <Panel title="Features" aside={state.pins.length > 0 && <button type="button" class="quiet" onClick={() => change({ pins: [] })}>unpin all</button>}>
      {state.pins.length === 0 && <Empty>{none ? "No SAE is loaded: Set up (key 1) loads one." : "Star features in Explore (key 2), or name one:"}</Empty>}
      {state.pins.map((pin) => (
        <Slider key={`${pin.layer}.${pin.feature}`} pin={pin} loaded={isLoaded(live, pin)} drag={drag} set={(more) => put(pin, more)}
          unpin={() => change({ pins: state.pins.filter((p) => !same(p, pin)) })} />
      ))}
      <AddFeature {...props} />
    </Panel>
  );
}

interface Written { text: string; done: boolean; n: number }
const NOTHING: Written = { text: "", done: false, n: 0 };

async function write(state: State, list: object[], signal: AbortSignal, onText: (w: Written) => void) {
  const common = { temperature: 0, max_tokens: N_WRITTEN, stream: true, edits: list };
  const prompt = promptOf(state);
  const [path, body] = "messages" in prompt ? ["/v1/chat/completions", { ...prompt, ...common }]
    : ["/v1/completions", { prompt: prompt.text, ...common }];
  let text = "", n = 0;
  for await (const part of stream<any>(path, body, signal)) {
    const piece = part.choices[0]?.text ?? part.choices[0]?.delta?.content ?? "";
    text += piece;
    if (piece) n++;
    onText({ text, done: false, n });
  }
  onText({ text, done: true, n });
}

// Where two texts part, on a whole character; Infinity while they do not.
function divergence(a: Written, b: Written): number {
  const x = [...a.text], y = [...b.text], n = Math.min(x.length, y.length);
  let i = 0;
  while (i < n && x[i] === y[i]) i++;
  const over = i < n || (a.done && b.done && x.length !== y.length);
  return over ? x.slice(0, i).join("").length : Infinity;
}

function Side(props: { title: string; written: Written; from: number; busy: boolean }) {
  const { text, done } = props.written;
  return (
    <div class="side">
      <h3>{props.title}</h3>
      <p class="written" aria-live="off" aria-busy={props.busy} dir="auto">
        {text.slice(0, props.from)}{props.from < text.length && <mark>{text.slice(props.from)}</mark>}
        {props.busy && !done && <span class="caret" aria-hidden="true" />}
        {done && text === "" && <span class="empty">It writes nothing: the text's end comes first.</span>}
      </p>
    </div>
  );
}

function verdictOf(sides: [Written, Written], from: number, stale: boolean): string {
  const [a, b] = sides;
  if (stale) return "made with other edits or another text: write again";
  if (!a.text && !b.text && !a.done) return "";
  if (from !== Infinity) {
    const n = [...a.text.slice(0, from)].length;
    return n === 0 ? "they part at once" : `they part after ${n} character${n === 1 ? "" : "s"}`;
  }
  return a.done && b.done ? "both write the same" : "";
}

function Answers(props: ViewProps) {
  const { live, state } = props;
  const [sides, setSides] = useState<[Written, Written]>([NOTHING, NOTHING]);
  const [error, setError] = useState<Error | null>(null);
  const [busy, setBusy] = useState(false);
  const [made, setMade] = useState("");
  const running = useRef<AbortController>();
  const list = edits(live, state.pins, state.positions), asked = JSON.stringify([promptOf(state), list]);
  const run = async () => {
    running.current?.abort();
    const mine = (running.current = new AbortController());
    setSides([NOTHING, NOTHING]);
    setError(null);
    setBusy(true);
    setMade(asked);
    try {
      await Promise.all([
        write(state, [], mine.signal, (w) => setSides(([, b]) => [w, b])),
        write(state, list, mine.signal, (w) => setSides(([a]) => [a, w])),
      ]);
    } catch (failure) {
      if (!mine.signal.aborted) setError(failure as Error);
      mine.abort(); // the other side has nothing to stand beside
    }
    if (running.current === mine) setBusy(false);
  };
  useEffect(() => () => running.current?.abort(), []);
  const from = divergence(...sides), stale = made !== "" && made !== asked && !busy;
  const ready = live.model?.status === "ready";
  return (
    <Panel title="Text" kind="text" aside={<small role="status">{verdictOf(sides, from, stale)}</small>}>
      <TextForm {...props} action="Write" busy={busy} disabled={!ready} run={run} stop={() => running.current?.abort()} />
      {live.model && !ready && <Empty>No model is loaded: Set up (key 1) loads one.</Empty>}
      <Failure error={error} />
      <div class={stale ? "sides stale" : "sides"}>
        <Side title="Original" written={sides[0]} from={from} busy={busy} />
        <Side title={list.length === 0 ? "Edited (no edit acts)" : "Edited"} written={sides[1]} from={from} busy={busy} />
      </div>
    </Panel>
  );
}

// ablate is "scale by 0" among the patches, which have no such op
const asPatch = (p: Pin) => ({
  feature_id: p.feature, layer_idx: p.layer, op: p.op === "ablate" ? "scale" : p.op, strength: p.op === "ablate" ? 0 : p.value,
  enabled: p.on,
});

const asPin = (p: Patch): Pin => ({ layer: p.layer_idx, feature: p.feature_idx, op: p.op, value: p.strength, on: p.isEnabled });

function Patches({ live, state, change }: ViewProps) {
  const [error, setError] = useState<Error | null>(null);
  const [told, tell] = useState("");
  const [switched, setSwitched] = useState<{ id: string; on: boolean } | null>(null); // shown until the server says so
  const list = live.patches, pins = state.pins.filter((p) => isLoaded(live, p));
  const attempt = async (work: () => Promise<unknown>, done = "") => {
    try {
      setError(null);
      tell("");
      await work();
      tell(done);
    } catch (failure) {
      setError(failure as Error);
    }
    await live.refresh();
  };
  const flip = async (p: Patch) => {
    setSwitched({ id: p.id, on: !p.isEnabled });
    await attempt(() => call("PATCH", `/patch/${p.id}`, { is_enabled: !p.isEnabled }));
    setSwitched(null);
  };
  const put = (patches: object[]) => async () => {
    for (const p of patches) await call("POST", "/patch", p);
  };
  const load = (event: Event) => {
    const field = event.currentTarget as HTMLInputElement, file = field.files?.[0];
    if (!file) return;
    void attempt(async () => put(await readPatches(file))(), `imported ${file.name}`);
    field.value = ""; // the same file may be chosen again
  };
  return (
    <Panel title="Patches" kind="patches" aside={<small role="status">{told || "edits that the server keeps"}</small>}>
      {list.length === 0 && <Empty>None saved. A patch acts in POST /inference, for every client, until it is switched off.</Empty>}
      {list.map((p) => (
        <div class="line patch" key={p.id}>
          <label class="check"><input type="checkbox" checked={switched?.id === p.id ? switched.on : p.isEnabled}
            onChange={() => flip(p)} /> <span class="title">{p.name}</span></label>
          <span class="numbers">{OP_NAMES[p.op]} {number(p.strength)} · layer {p.layer_idx}</span>
          <button type="button" class="quiet" aria-label={`Delete the patch ${p.name}`}
            onClick={() => attempt(() => call("DELETE", `/patch/${p.id}`, undefined))}>✕</button>
        </div>
      ))}
      <Failure error={error} />
      <div class="line">
        <button type="button" disabled={pins.length === 0} onClick={() => attempt(put(pins.map(asPatch)), `saved ${pins.length}`)}>Save as patches</button>
        <button type="button" disabled={list.length === 0} onClick={() => change({ pins: list.map(asPin) })}>To the sliders</button>
        <button type="button" disabled={list.length === 0}
          onClick={() => attempt(async () => save("patches.json", JSON.stringify(await call("POST", "/export-patches", {}), null, 2)))}>Export</button>
        <label class="button">Import <input type="file" accept=".json,application/json" aria-label="Import patches" onChange={load} /></label>
      </div>
    </Panel>
  );
}

function Steer(props: ViewProps) {
  const drag = useRef<Drag>({ on: false, release: () => undefined });
  return (
    <div class="columns steer">
      <div class="stack">
        <Answers {...props} />
        <Patches {...props} />
      </div>
      <div class="stack">
        <Sliders {...props} drag={drag} />
        <NextTokens {...props} drag={drag} />
      </div>
    </div>
  );
}

export const steer: View = { name: "steer", title: "Steer", show: Steer };
