// SPDX-License-Identifier: MIT
// Small parts that several views show.
import type { ComponentChildren } from "preact";
import { useRef } from "preact/hooks";
import { call, type Job } from "./api";
import { bytes, duration, number } from "./tokens";

export function Panel(props: { title: string; aside?: ComponentChildren; children: ComponentChildren }) {
  return (
    <section class="panel" aria-label={props.title}>
      <header><h2>{props.title}</h2>{props.aside}</header>
      {props.children}
    </section>
  );
}

export function Failure(props: { error: Error | null }) {
  return props.error ? <p class="failure" role="alert">{props.error.message}</p> : null;
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

// How fast a job is, from what it told since its stage began.
function useRate(job: Job): number | null {
  const first = useRef<{ key: string; done: number; at: number }>();
  const key = `${job.id} ${job.progress.stage}`;
  if (first.current?.key !== key) first.current = { key, done: job.progress.done, at: performance.now() };
  const seconds = (performance.now() - first.current.at) / 1000;
  return seconds > 0.5 ? (job.progress.done - first.current.done) / seconds : null;
}

function amount(n: number, unit: string | null): string {
  return unit === "bytes" ? bytes(n) : `${n}${unit ? ` ${unit}` : ""}`;
}

export function JobRow(props: { job: Job; onChange: () => void }) {
  const { job } = props, { done, total, unit, stage } = job.progress;
  const rate = useRate(job);
  const running = job.status === "running";
  const cancel = async () => {
    await call("DELETE", `/jobs/${job.id}`, undefined).catch(() => undefined);
    props.onChange();
  };
  return (
    <article class={`job ${job.status}`} aria-label={`${job.kind} ${job.title}`}>
      <div class="line">
        <strong>{job.kind}</strong> <span class="title">{job.title}</span>
        <span class={`state ${job.status}`}>{running ? stage ?? "running" : job.status}</span>
        {running && <button type="button" onClick={cancel}>Cancel</button>}
      </div>
      {running && (
        <div class="line">
          <progress max={total || 1} value={total ? done : undefined} aria-label="progress" />
          <span class="numbers">
            {total > 0 && `${amount(done, unit)} of ${amount(total, unit)}`}
            {rate !== null && rate > 0 && ` · ${unit === "bytes" ? bytes(rate) : number(rate)}/s`}
            {rate !== null && rate > 0 && total > done && ` · ${duration((total - done) / rate)} left`}
          </span>
        </div>
      )}
      {job.error && <p class="failure">{job.error.detail}</p>}
      {job.result?.warning && <p class="warning">{job.result.warning}</p>}
    </article>
  );
}
