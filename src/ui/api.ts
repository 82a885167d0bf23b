// SPDX-License-Identifier: MIT
// The public HTTP API, and nothing else.

export class ApiError extends Error {
  constructor(readonly status: number, readonly code: string, message: string, readonly field?: string) {
    super(message);
  }
}

// People see which field is meant; its name in the API says nothing to them.
export const plain = (text: string, field?: string | null) => (field && text.startsWith(`${field}: `) ? text.slice(field.length + 2) : text);

// Errors under /v1 come in OpenAI's form, others as {detail}; 422 lists what is wrong.
function failureOf(status: number, body: any): ApiError {
  const told = body?.error ?? body ?? {};
  let text = told.message ?? told.detail;
  if (Array.isArray(text)) text = text.map((p: any) => `${p.loc.slice(1).join(".")}: ${p.msg}`).join("; ");
  const field = told.param ?? told.field ?? undefined;
  return new ApiError(status, told.code ?? "EINTERNAL", plain(text ?? `The server answered ${status}.`, field), field);
}

async function send(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, {
      method, signal: signal ?? null,
      ...(body === undefined ? {} : { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "ENET", "The server does not answer. Is moonscope serve still running?");
  }
  if (!response.ok) throw failureOf(response.status, await response.json().catch(() => null));
  return response;
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await send("GET", path, undefined, signal)).json();
}

export async function call<T>(method: string, path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  return (await send(method, path, body, signal)).json();
}

// The events of a stream that a POST answers: data until "[DONE]". An error within it is thrown.
export async function* stream<T>(path: string, body: unknown, signal: AbortSignal): AsyncGenerator<T> {
  const response = await send("POST", path, body, signal);
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (kept + value).split("\n\n");
    kept = events.pop()!;
    for (const event of events) {
      const data = event.split("\n").filter((l) => l.startsWith("data: ")).map((l) => l.slice(6)).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const part = JSON.parse(data);
      if (part.error) throw failureOf(500, part);
      yield part;
    }
  }
}

// What the server answers.

export interface ModelStatus {
  status: "idle" | "loading" | "ready" | "error";
  modelName?: string; error?: string; device?: string; dtype?: string; precision?: string; context?: number;
  d_model?: number; n_layers?: number; memoryUsage: { rss_bytes: number };
}
export interface SaeLayer { layer_idx: number; layer_name: string; features: number; device: string; dtype: string }
export interface SaeStatus { status: "idle" | "ready"; featureCount?: number; layers?: SaeLayer[] }
export interface Catalog {
  models: { model_name: string; source: "folder" | "cache" }[];
  saes: { path: string; bytes: number | null; layer_idx: number | null }[];
  published: { sae_name: string; repo_id: string | null; layer_idx: number; d_model: number; expansion_factor: number }[];
  truncated: boolean;
}
export interface Job {
  id: string; kind: string; title: string; status: "running" | "completed" | "failed" | "cancelled";
  progress: {
    done: number; total: number; unit: string | null; stage: string | null;
    per_second: number | null; seconds_left: number | null;
  };
  log: { at: string; text: string }[];
  created_at: string; finished_at?: string; result?: any; error?: { detail: string; code: string; field: string | null };
}
export interface Firing { index: number; activation: number; label: string | null }
export interface Token {
  position: number; token_id: number; token: string; bytes: number[]; special: boolean; l0: number; total: number;
  features: Firing[];
}
export interface Inspection {
  model: string; layer_idx: number; d_sae: number; tokens: Token[];
  features: { index: number; label: string | null; max: number; activations: number[] }[];
}
export interface Said { token_id: number; token: string; bytes: number[]; logit: number }
export interface Direction { index: number; label: string | null; norm: number; top: Said[]; bottom: Said[] }
export interface Plan {
  model: {
    model_name: string; source: "loaded" | "folder" | "cache" | "hub"; device: string; dtype: string; precision: string;
    context: number; n_ctx: number; n_layers: number; d_model: number; parameters: number; weights_bytes: number;
    mapped_bytes: number; context_bytes: number;
  };
  sae: {
    path: string; source: "folder" | "hub"; format: string | null; activation: string | null; d_sae: number;
    d_model: number; layer: number | null; file_dtype: string | null; dtype: string; weights_bytes: number;
  } | null;
  needed_bytes?: number; allocated_bytes?: number; free_bytes?: number; total_bytes?: number; fits: boolean | null;
  remedy?: string | null;
}
export interface Details {
  description: string | null;
  detailed_analysis: {
    weight_norm: number; max_activation: number | null; measured_tokens: number;
    top_token_details: { token: string; activation_strength: number; context_snippet: string }[];
  };
}
export interface Patch {
  id: string; name: string; isEnabled: boolean; strength: number; layer_idx: number; feature_idx: number; op: string;
}
export interface System {
  version: string; uptime_seconds: number; devices: string[]; instruction_set: string;
  memory: { rss_bytes: number; free_bytes: number; total_bytes: number };
  speed: {
    prompt_tokens_per_second: number | null; generated_tokens_per_second: number | null; prompt_tokens: number;
    generated_tokens: number;
  } | null;
  answers: number; jobs_running: number;
}
export interface Next { token_id: number; token: string; bytes: number[]; before: number; after: number }
export interface Message { role: "system" | "user" | "assistant"; content: string }
export interface Edit { layer: number; feature: number; op: string; value: number; positions: string }
