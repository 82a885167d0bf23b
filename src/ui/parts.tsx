// SPDX-License-Identifier: MIT
// Small parts that several views show.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { advice } from "./advice";
import { ApiError, call, type Job, plain } from "./api";
import type { Live } from "./live";
import { bytes, duration, number, whole } from "./tokens";
import type { State } from "./url";

export function Panel(props: { title: string; kind?: string; aside?: ComponentChildren; children: ComponentChildren }) {
  return (
    <section class={`panel ${props.kind ?? ""}`} aria-label={props.title}>
      <header><h2>{props.title}</h2>{props.aside}</header>
      {props.children}
    </section>
  );
}

function Told(props: { text: string; code?: string; field?: string }) {
  const help = props.code && advice(props.code, props.field);
  return (
    <div class="failure" role="alert">
      <p>{props.text}</p>
      {help && <p class="advice">{help}</p>}
    </div>
  );
}

export function Failure(props: { error: Error | null }) {
  const { error } = props;
  if (!error) return null;
  return error instanceof ApiError ? <Told text={error.message} code={error.status ? error.code : ""} field={error.field} />
    : <Told text={error.message} />;
}

export function Empty(props: { children: ComponentChildren }) {
  return <p class="empty">{props.children}</p>;
}

export function Facts(props: { rows: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {props.rows.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}
    </dl>
  );
}

// A bar whose length is a share of 0 to 1.
export function Bar(props: { share: number; kind?: string }) {
  return <span class={`bar ${props.kind ?? ""}`} style={{ "--share": Math.max(0, Math.min(1, props.share)) }} aria-hidden="true" />;
}

// Which SAE is looked at, where several layers have one.
export function LayerChoice(props: { live: Live; layer: number | undefined; change: (change: Partial<State>) => void }) {
  const layers = props.live.sae?.layers ?? [];
  if (layers.length < 2) return null;
  return (
    <label class="short">SAE of <select value={props.layer} onChange={(e) => props.change({ layer: Number(e.currentTarget.value), shade: "total" })}>
      {layers.map((l) => <option key={l.layer_idx} value={l.layer_idx}>layer {l.layer_idx}</option>)}
    </select></label>
  );
}

// The value once it has not changed for a while.
export function useSettled<T>(value: T, milliseconds: number): T {
  const [settled, settle] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => settle(value), milliseconds);
    return () => clearTimeout(timer);
  }, [value, milliseconds]);
  return settled;
}

function amount(n: number, unit: string | null): string {
  return unit === "bytes" ? bytes(n) : `${whole(n)}${unit ? ` ${unit}` : ""}`;
}

function progressText({ progress }: Job): string {
  const { done, total, unit, per_second: rate, seconds_left: left } = progress;
  if (total <= 0) return "";
  const parts = [`${amount(done, unit)} of ${amount(total, unit)}`];
  if (rate) parts.push(`${unit === "bytes" ? bytes(rate) : number(rate)}/s`);
  if (left) parts.push(`${duration(left)} left`);
  return parts.join(" · ");
}

const clock = (at: string) => new Date(at).toLocaleTimeString("en-GB");

function Log({ job }: { job: Job }) {
  return (
    <details>
      <summary>Log <small>{clock(job.created_at)}{job.finished_at && ` – ${clock(job.finished_at)}`}</small></summary>
      <ol class="log">
        {job.log.map((line, i) => <li key={i}><time>{clock(line.at)}</time> {line.text}</li>)}
      </ol>
    </details>
  );
}

export function JobRow(props: { job: Job; onChange: () => void; log?: boolean }) {
  const { job } = props, { done, total, stage } = job.progress;
  const running = job.status === "running", row = useRef<HTMLElement>(null);
  const cancel = async () => {
    row.current?.focus(); // the button goes, the keyboard's place stays
    await call("DELETE", `/jobs/${job.id}`, undefined).catch(() => undefined);
    props.onChange();
  };
  return (
    <article ref={row} tabIndex={-1} class={`job ${job.status}`} aria-label={`${job.kind} ${job.title}`}>
      <div class="line">
        <strong>{job.kind}</strong> <span class="title">{job.title}</span>
        <span class={`state ${job.status}`} role="status">{running ? stage ?? "running" : job.status}</span>
        {running && <button type="button" onClick={cancel}>Cancel</button>}
      </div>
      {running && (
        <div class="line">
          <progress max={total || 1} value={total ? done : undefined} aria-label={`${job.kind}: progress`} />
          <span class="numbers rate">{progressText(job)}</span>
        </div>
      )}
      {job.error && job.status === "failed" && <Told text={plain(job.error.detail, job.error.field)} code={job.error.code} field={job.error.field ?? ""} />}
      {job.status === "cancelled" && <p class="empty">It was cancelled{job.kind !== "doctor" && "; nothing half-written is left. A download goes on from where it was"}.</p>}
      {job.result?.warning && <p class="warning">{job.result.warning}</p>}
      {props.log && <Log job={job} />}
    </article>
  );
}
