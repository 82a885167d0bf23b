// SPDX-License-Identifier: MIT
import { useEffect, useState } from "preact/hooks";
import { call, get, type Catalog, type Job } from "../api";
import { Empty, Facts, Failure, JobRow, Panel } from "../parts";
import { bytes } from "../tokens";
import type { ViewProps } from "../views";

const GOODFIRE = "Llama-3.1-8B-Instruct-SAE-l19";

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

function latest(jobs: Job[], ...kinds: string[]): Job | undefined {
  return [...jobs].reverse().find((job) => kinds.includes(job.kind) && job.status !== "completed");
}

function ModelPanel({ live, catalog }: ViewProps & { catalog: Catalog | null }) {
  const [name, setName] = useState("");
  const [error, start] = useStart(live.refresh);
  const model = live.model, job = latest(live.jobs, "load-model");
  const load = (event: Event) => {
    event.preventDefault();
    void start("/load-model", { model_name: name.trim() });
  };
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
        <div class="choices">
          {catalog?.models.slice(0, 6).map((m) => (
            <button type="button" class="quiet" key={m.model_name} onClick={() => setName(m.model_name)}>{m.model_name}</button>
          ))}
        </div>
      </form>
      <Failure error={error} />
      {job && <JobRow job={job} onChange={live.refresh} />}
      {model?.status === "ready" && (
        <>
          <Facts rows={[
            ["loaded", model.modelName ?? ""], ["device", model.device ?? ""], ["dtype", model.dtype ?? ""],
            ["precision", model.precision ?? ""], ["context", `${model.context} tokens`],
            ["memory of the server", bytes(model.memoryUsage.rss_bytes)],
          ]} />
          <button type="button" onClick={() => call("POST", "/unload-model", {}).then(live.refresh, live.refresh)}>Unload</button>
        </>
      )}
      {model?.status === "idle" && !job && <Empty>No model yet. Everything else begins with one.</Empty>}
    </Panel>
  );
}

function SaePanel({ live, catalog }: ViewProps & { catalog: Catalog | null }) {
  const [published, setPublished] = useState(GOODFIRE);
  const [path, setPath] = useState("");
  const [layer, setLayer] = useState("");
  const [error, start] = useStart(live.refresh);
  const ready = live.model?.status === "ready";
  const job = latest(live.jobs, "load-sae", "load-goodfire-sae");
  const loadGoodfire = (event: Event) => {
    event.preventDefault();
    void start("/load-goodfire-sae", { sae_name: published });
  };
  const loadFile = (event: Event) => {
    event.preventDefault();
    void start("/load-sae", { sae_path: path.trim(), ...(layer === "" ? {} : { layer_idx: Number(layer) }) });
  };
  return (
    <Panel title="Sparse autoencoder">
      {!ready && <Empty>Load a model first: the SAE goes to its device and dtype.</Empty>}
      <form onSubmit={loadGoodfire} class="stack">
        <label for="published">Published: downloaded, converted and loaded</label>
        <div class="line">
          <select id="published" value={published} onChange={(e) => setPublished(e.currentTarget.value)}>
            {(catalog?.published ?? [{ sae_name: GOODFIRE, layer_idx: 19 }]).map((p) => (
              <option key={p.sae_name} value={p.sae_name}>{p.sae_name}</option>
            ))}
          </select>
          <button class="primary" disabled={!ready}>Load Goodfire SAE</button>
        </div>
      </form>
      <form onSubmit={loadFile} class="stack">
        <label for="sae">Or a file below the data folders</label>
        <div class="line">
          <input id="sae" list="saes" value={path} onInput={(e) => setPath(e.currentTarget.value)} required
            placeholder="saes/sae_layer_19.safetensors" autocomplete="off" spellcheck={false} />
          <label class="short">layer <input inputMode="numeric" pattern="[0-9]*" value={layer} placeholder="own"
            onInput={(e) => setLayer(e.currentTarget.value)} /></label>
          <button disabled={!ready || !path.trim()}>Load file</button>
        </div>
        <datalist id="saes">{catalog?.saes.map((s) => <option key={s.path} value={s.path} />)}</datalist>
        <div class="choices">
          {catalog?.saes.slice(0, 6).map((s) => (
            <button type="button" class="quiet" key={s.path} onClick={() => setPath(s.path)}>
              {s.path} {s.bytes !== null && <small>{bytes(s.bytes)}</small>}
            </button>
          ))}
        </div>
      </form>
      <Failure error={error} />
      {job && <JobRow job={job} onChange={live.refresh} />}
      {live.sae?.layers?.map((l) => (
        <div class="line loaded-sae" key={l.layer_idx}>
          <span><strong>{l.layer_name}</strong> · {l.features} features · {l.dtype} on {l.device}</span>
          <button type="button" aria-label={`Unload the SAE of layer ${l.layer_idx}`}
            onClick={() => call("DELETE", `/sae/${l.layer_idx}`, undefined).then(live.refresh, live.refresh)}>Unload</button>
        </div>
      ))}
    </Panel>
  );
}

interface Report {
  verdict: string; tokens: number; findings: { level: string; about: string; message: string; remedy: string | null }[];
}

function DoctorPanel({ live }: ViewProps) {
  const [error, start] = useStart(live.refresh);
  const job = [...live.jobs].reverse().find((j) => j.kind === "doctor");
  const report = job?.result as Report | undefined;
  const layers = live.sae?.layers ?? [];
  return (
    <Panel title="Does it fit?" aside={report && <span class={`state ${report.verdict}`}>{report.verdict}</span>}>
      {layers.length === 0 && <Empty>With an SAE loaded, doctor measures whether layer, activation and weights fit.</Empty>}
      {layers.map((l) => (
        <button type="button" key={l.layer_idx} disabled={job?.status === "running"}
          onClick={() => start("/doctor", { layer_idx: l.layer_idx })}>Examine layer {l.layer_idx}</button>
      ))}
      <Failure error={error} />
      {job && job.status !== "completed" && <JobRow job={job} onChange={live.refresh} />}
      {report && (
        <ul class="findings">
          {report.findings.map((f) => (
            <li key={f.about + f.message} class={f.level}>
              <span class={`state ${f.level}`}>{f.level}</span> <strong>{f.about}</strong> {f.message}
              {f.remedy && <em> {f.remedy}</em>}
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}

export function Setup(props: ViewProps) {
  const [catalog, setCatalog] = useState<Catalog | null>(null);
  useEffect(() => {
    if (props.live.connected) get<Catalog>("/catalog").then(setCatalog, () => undefined);
  }, [props.live.connected, props.live.sae]);
  return (
    <div class="columns">
      <ModelPanel {...props} catalog={catalog} />
      <div class="stack">
        <SaePanel {...props} catalog={catalog} />
        <DoctorPanel {...props} />
      </div>
    </div>
  );
}
