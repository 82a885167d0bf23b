// SPDX-License-Identifier: MIT
// Set up: the model, the SAE beside it, what they take of the memory, whether they fit together.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { type ApiError, call, type Catalog, get, type Job, type Plan, type System } from "../api";
import { Empty, Facts, Failure, JobRow, Panel, useSettled } from "../parts";
import { bytes, memory, number, whole } from "../tokens";
import type { View, ViewProps } from "../views";

const GOODFIRE = "Llama-3.1-8B-Instruct-SAE-l19";
const SETTLE_MS = 250;

type Fields = Record<string, string | number | boolean>;
type SetupProps = ViewProps & { catalog: Catalog | null; devices: string[] };

// Starts something long; what becomes of it shows among the jobs.
function useStart(refresh: () => Promise<void>): [Error | null, (path: string, body: object) => Promise<void>] {
  const [error, setError] = useState<Error | null>(null);
  return [error, async (path, body) => {
    try {
      setError(null);
      await call("POST", path, { ...body, wait: false });
    } catch (failure) {
      setError(failure as Error);
    }
    await refresh();
  }];
}

interface Needed { plan: Plan | null; error: ApiError | null; pending: boolean }

// What loading this would take; asked again when the fields have settled. null: there is nothing to ask for.
function usePlan(fields: Fields | null, again: string): Needed {
  const now = fields ? JSON.stringify(fields) : "", body = useSettled(now, SETTLE_MS);
  const [told, tell] = useState<{ of: string; plan: Plan | null; error: ApiError | null }>({ of: "", plan: null, error: null });
  useEffect(() => {
    const mine = new AbortController();
    if (!body) return;
    call<Plan>("POST", "/plan", JSON.parse(body), mine.signal).then((plan) => tell({ of: body, plan, error: null }), (error) => {
      if (!mine.signal.aborted) tell({ of: body, plan: null, error });
    });
    return () => mine.abort();
  }, [body, again]);
  return now !== "" && told.of === now ? { ...told, pending: false } : { plan: null, error: null, pending: now !== "" };
}

// The last job of these kinds, unless it went well: then its result shows.
function latest(jobs: Job[], ...kinds: string[]): Job | undefined {
  const last = [...jobs].reverse().find((job) => kinds.includes(job.kind));
  return last?.status === "completed" ? undefined : last;
}

function filled(fields: Record<string, string | boolean>): Fields {
  const numbers = ["context", "layer_idx", "input_scale"], out: Fields = {};
  for (const [name, value] of Object.entries(fields)) {
    if (value === "" || value === false) continue;
    out[name] = numbers.includes(name) ? Number(value) : typeof value === "string" ? value.trim() : value;
  }
  return out;
}

function Needs({ plan, error, pending, idle }: Needed & { idle: string }) {
  let text: ComponentChildren = pending ? "measuring…" : idle, kind = "";
  if (error) {
    [text, kind] = [error.message, "warning"];
  } else if (plan?.model.source === "hub") {
    text = "Not on this machine yet: it is downloaded first, then measured against the memory.";
  } else if (plan) {
    const { sae } = plan;
    text = (
      <>
        {sae ? <>{sae.source === "hub" && "downloaded first · "}{whole(sae.d_sae)} features{sae.layer !== null && ` · layer ${sae.layer}`}
          {sae.activation && ` · ${sae.activation}`} · {sae.dtype}{sae.file_dtype && sae.file_dtype !== sae.dtype && ` (the file: ${sae.file_dtype})`} · </>
          : <>{plan.model.device} · {plan.model.dtype} · {whole(plan.model.parameters)} parameters · context {whole(plan.model.context)} · </>}
        <strong>{memory(sae ? sae.weights_bytes : plan.needed_bytes!)}</strong> needed, {memory(plan.free_bytes!)} free
        {plan.remedy && <span class="warning"> – {plan.remedy}</span>}
      </>
    );
    if (plan.fits === false) kind = "warning";
  }
  return <p class={`needs ${kind}`} role="status">{text}</p>;
}

// Names to choose from; the rest is in the field's own list.
function Choices(props: { list: { name: string; more?: string | undefined }[]; choose: (name: string) => void; none: string; loading: boolean }) {
  return (
    <div class="choices">
      {props.list.slice(0, 8).map(({ name, more }) => (
        <button type="button" class="quiet" key={name} onClick={() => props.choose(name)}>{name}{more && <small>{more}</small>}</button>
      ))}
      {props.list.length > 8 && <small>and {props.list.length - 8} more: type to find them</small>}
      {props.list.length === 0 && <small>{props.loading ? "looking…" : props.none}</small>}
    </div>
  );
}

function ModelPanel({ live, state, change, catalog, devices }: SetupProps) {
  const name = state.model, setName = (model: string) => change({ model });
  const [options, setOptions] = useState({ device: "", precision: "", context: "" });
  const [error, start] = useStart(live.refresh);
  const model = live.model, job = latest(live.jobs, "load-model");
  const fields = filled({ model_name: name, ...options });
  const needs = usePlan(name.trim() ? fields : null, String(model?.status));
  const load = (event: Event) => {
    event.preventDefault();
    void start("/load-model", fields);
  };
  const option = (key: keyof typeof options) => (e: Event) =>
    setOptions({ ...options, [key]: (e.currentTarget as HTMLInputElement).value });
  return (
    <Panel title="Model">
      <form onSubmit={load} class="stack">
        <label for="model">A folder below the server's data folders, or a model of the Hugging Face Hub</label>
        <div class="line">
          <input id="model" list="models" value={name} onInput={(e) => setName(e.currentTarget.value)} required
            placeholder="meta-llama/Llama-3.1-8B-Instruct" autocomplete="off" spellcheck={false} />
          <button class="primary" disabled={!name.trim() || model?.status === "loading"}>Load model</button>
        </div>
        <datalist id="models">
          {catalog?.models.map((m) => <option key={m.model_name} value={m.model_name}>{m.source}</option>)}
        </datalist>
        <Choices list={(catalog?.models ?? []).map((m) => ({ name: m.model_name, more: m.source === "cache" ? "cached" : undefined }))}
          choose={setName} loading={!catalog} none="There is no model below the data folders (serve --data FOLDER)." />
        <Needs {...needs} idle="Choose a model: what it needs and what is free shows here." />
        <details>
          <summary>Options</summary>
          <div class="line options">
            <label>device <select value={options.device} onChange={option("device")}>
              <option value="">the server's</option>
              {["auto", ...devices].map((d) => <option key={d}>{d}</option>)}
            </select></label>
            <label>precision <select value={options.precision} onChange={option("precision")}>
              <option value="">the server's</option><option>fast</option><option>exact</option>
            </select></label>
            <label class="short">context <input inputMode="numeric" pattern="[1-9][0-9]*" value={options.context}
              placeholder="default" onInput={option("context")} /></label>
          </div>
        </details>
      </form>
      <Failure error={error} />
      {job && <JobRow job={job} onChange={live.refresh} />}
      {model?.status === "ready" ? (
        <div class="there">
          <Facts rows={[
            ["loaded", <strong>{model.modelName}</strong>], ["on", `${model.device} in ${model.dtype}, ${model.precision}`],
            ["shape", `${model.n_layers} layers, d_model ${whole(model.d_model!)}`],
            ["context", `${whole(model.context!)} tokens`], ["server's memory", memory(model.memoryUsage.rss_bytes)],
          ]} />
          <button type="button" onClick={() => call("POST", "/unload-model", {}).then(live.refresh, live.refresh)}>Unload</button>
        </div>
      ) : !job && <Empty>{model ? "No model yet. Everything else begins with one." : "Asking the server…"}</Empty>}
    </Panel>
  );
}

// The one that is offered first: Goodfire's, unless the model that is loaded has another width.
function offered(catalog: Catalog | null, d_model: number | undefined): string {
  const fits = (catalog?.published ?? []).filter((p) => p.d_model === d_model);
  return d_model === undefined || fits.length === 0 || fits.some((p) => p.sae_name === GOODFIRE) ? GOODFIRE : fits[0]!.sae_name;
}

function Published({ live, catalog, start }: SetupProps & { start: (path: string, body: object) => Promise<void> }) {
  const [chosen, choose] = useState("");
  const ready = live.model?.status === "ready", d_model = live.model?.d_model;
  const name = chosen || offered(catalog, d_model);
  const needs = usePlan(ready && catalog ? { sae_name: name } : null, `${live.model?.modelName} ${live.sae?.featureCount}`);
  const submit = (event: Event) => {
    event.preventDefault();
    void start("/load-goodfire-sae", { sae_name: name });
  };
  return (
    <form onSubmit={submit} class="stack">
      <label for="published">A published one: downloaded, converted and loaded</label>
      <div class="line">
        <select id="published" value={name} onChange={(e) => choose(e.currentTarget.value)}>
          {(catalog?.published ?? [{ sae_name: GOODFIRE, layer_idx: 19, d_model: 4096 }]).map((p) => (
            <option key={p.sae_name} value={p.sae_name}>
              {p.sae_name}{d_model !== undefined && p.d_model !== d_model && " (of another model)"}
            </option>
          ))}
        </select>
        <button class="primary" disabled={!ready}>Load Goodfire SAE</button>
      </div>
      <Needs {...needs} idle="Load a model first: the SAE goes to its device and dtype." />
    </form>
  );
}

const NO_OPTIONS = { layer_idx: "", dtype: "", format: "", activation: "", input_scale: "", force: false };

function FileForm({ live, state, change, catalog, start }: SetupProps & { start: (path: string, body: object) => Promise<void> }) {
  const path = state.sae, setPath = (sae: string) => change({ sae });
  const [options, setOptions] = useState(NO_OPTIONS);
  const ready = live.model?.status === "ready";
  const { force, ...asked } = filled({ sae_path: path, ...options });
  const needs = usePlan(ready && path.trim() ? asked : null, `${live.model?.modelName} ${live.sae?.featureCount}`);
  const submit = (event: Event) => {
    event.preventDefault();
    void start("/load-sae", { ...asked, ...(force ? { force } : {}) });
  };
  const option = (key: keyof typeof options) => (e: Event) =>
    setOptions({ ...options, [key]: (e.currentTarget as HTMLInputElement).value });
  return (
    <form onSubmit={submit} class="stack">
      <label for="sae">Or a file below the data folders</label>
      <div class="line">
        <input id="sae" list="saes" value={path} onInput={(e) => setPath(e.currentTarget.value)} required
          placeholder="saes/sae_layer_19.safetensors" autocomplete="off" spellcheck={false} />
        <button disabled={!ready || !path.trim()}>Load file</button>
      </div>
      <datalist id="saes">{catalog?.saes.map((s) => <option key={s.path} value={s.path} />)}</datalist>
      <Choices list={(catalog?.saes ?? []).map((s) => ({ name: s.path, more: s.bytes === null ? undefined : bytes(s.bytes) }))}
        choose={setPath} loading={!catalog} none="There is no .pth, .pt, .npz or .safetensors below the data folders." />
      <Needs {...needs} idle={ready ? "Choose a file: what is in it shows here." : "Load a model first."} />
      <details>
        <summary>Options</summary>
        <div class="line options">
          <label class="short">layer <input inputMode="numeric" pattern="[0-9]*" value={options.layer_idx} placeholder="own"
            onInput={option("layer_idx")} /></label>
          <label>dtype <select value={options.dtype} onChange={option("dtype")}>
            <option value="">the model's</option><option value="file">the file's</option>
            {["f32", "bf16", "f16"].map((d) => <option key={d}>{d}</option>)}
          </select></label>
          <label class="short">format <input value={options.format} placeholder="found" onInput={option("format")} /></label>
          <label class="short">activation <input value={options.activation} placeholder="found" onInput={option("activation")} /></label>
          <label class="short">input scale <input inputMode="decimal" value={options.input_scale} placeholder="own"
            onInput={option("input_scale")} /></label>
          <label class="check"><input type="checkbox" checked={options.force}
            onChange={(e) => setOptions({ ...options, force: e.currentTarget.checked })} /> this layer, whatever the file says</label>
        </div>
      </details>
    </form>
  );
}

function SaePanel(props: SetupProps) {
  const { live } = props;
  const [error, start] = useStart(live.refresh);
  const job = latest(live.jobs, "load-sae", "load-goodfire-sae");
  return (
    <Panel title="Sparse autoencoder">
      <Published {...props} start={start} />
      <FileForm {...props} start={start} />
      <Failure error={error} />
      {job && <JobRow job={job} onChange={live.refresh} />}
      {live.sae?.layers?.map((l) => (
        <div class="line there" key={l.layer_idx}>
          <span><strong>{l.layer_name}</strong> · {whole(l.features)} features · {l.dtype} on {l.device}</span>
          <button type="button" aria-label={`Unload the SAE of layer ${l.layer_idx}`}
            onClick={() => call("DELETE", `/sae/${l.layer_idx}`, undefined).then(live.refresh, live.refresh)}>Unload</button>
        </div>
      ))}
      {live.sae?.layers && <button type="button" onClick={() => props.change({ view: "explore" })}>See what fires in a text</button>}
    </Panel>
  );
}

interface Place { place: string; claimed: boolean; fvu: number | null; l0: number | null }
interface Report {
  verdict: string; tokens: number; layer: number; places: Place[];
  findings: { level: string; about: string; message: string; remedy: string | null }[];
}

function Verdict({ report }: { report: Report }) {
  const claimed = report.places.find((p) => p.claimed);
  return (
    <>
      <p class="line">
        <span class={`state ${report.verdict}`}>{report.verdict}</span>
        <small>layer {report.layer}, {whole(report.tokens)} tokens read
          {claimed?.l0 != null && `, ${number(claimed.l0)} features a token`}
          {claimed?.fvu != null && `, ${(100 * claimed.fvu).toFixed(1)}% of the stream unexplained`}</small>
      </p>
      <ul class="findings">
        {report.findings.map((f) => (
          <li key={f.about + f.message}>
            <span class={`state ${f.level}`}>{f.level}</span> <strong>{f.about}</strong> {f.message}
            {f.remedy && <em> {f.remedy}</em>}
          </li>
        ))}
      </ul>
    </>
  );
}

function DoctorPanel({ live }: ViewProps) {
  const [error, start] = useStart(live.refresh);
  const job = [...live.jobs].reverse().find((j) => j.kind === "doctor");
  const layers = live.sae?.layers ?? [];
  return (
    <Panel title="Does it fit?">
      {layers.length === 0 && <Empty>With an SAE loaded, doctor measures whether layer, activation and weights fit.</Empty>}
      {layers.map((l) => (
        <button type="button" key={l.layer_idx} disabled={job?.status === "running"}
          onClick={() => start("/doctor", { layer_idx: l.layer_idx })}>Examine layer {l.layer_idx}</button>
      ))}
      <Failure error={error} />
      {job && job.status !== "completed" && <JobRow job={job} onChange={live.refresh} />}
      {job?.result && <Verdict report={job.result as Report} />}
    </Panel>
  );
}

// What could be loaded: again when the server comes back, and when a job may have written a file.
function useCatalog({ live }: ViewProps): [Catalog | null, string[]] {
  const [catalog, setCatalog] = useState<Catalog | null>(null);
  const [devices, setDevices] = useState<string[]>([]);
  const ended = live.jobs.filter((job) => job.status !== "running").map((job) => job.id).join();
  const newest = useRef(0);
  useEffect(() => {
    const mine = ++newest.current;
    if (!live.connected || live.refused) return;
    get<Catalog>("/catalog").then((c) => mine === newest.current && setCatalog(c), () => undefined);
    get<System>("/system").then((s) => setDevices(s.devices), () => undefined);
  }, [live.connected, live.refused, ended]);
  return [catalog, devices];
}

function Setup(props: ViewProps) {
  const [catalog, devices] = useCatalog(props);
  const more = { ...props, catalog, devices };
  return (
    <div class="columns even">
      <ModelPanel {...more} />
      <div class="stack">
        <SaePanel {...more} />
        <DoctorPanel {...props} />
      </div>
    </div>
  );
}

export const setup: View = { name: "setup", title: "Set up", show: Setup };
