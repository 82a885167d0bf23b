// SPDX-License-Identifier: MIT
// Jobs and system: what runs and ran, with its log; memory, speed, version.
import { useEffect, useState } from "preact/hooks";
import { get, type System as Machine } from "../api";
import { Bar, Empty, Facts, Failure, JobRow, Panel } from "../parts";
import { duration, memory, number, whole } from "../tokens";
import type { View, ViewProps } from "../views";

const EVERY_MS = 2000;

function useMachine(): [Machine | null, Error | null] {
  const [machine, setMachine] = useState<Machine | null>(null);
  const [error, setError] = useState<Error | null>(null);
  useEffect(() => {
    let over = false, timer: number;
    const ask = async () => {
      try {
        const now = await get<Machine>("/system");
        if (over) return;
        setMachine(now);
        setError(null);
      } catch (failure) {
        if (!over) setError(failure as Error);
      }
      timer = window.setTimeout(ask, EVERY_MS);
    };
    void ask();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, []);
  return [machine, error];
}

const rate = (x: number | null | undefined) => (x == null ? "no answer yet" : `${number(x)} tokens/s`);

function MachineFacts({ machine }: { machine: Machine }) {
  const { memory: m, speed } = machine, taken = m.total_bytes - m.free_bytes;
  return (
    <>
      <Facts rows={[
        ["version", machine.version], ["up", duration(machine.uptime_seconds)], ["devices", machine.devices.join(", ")],
        ["instruction set", machine.instruction_set],
      ]} />
      <h3>Memory</h3>
      <Bar share={taken / m.total_bytes} />
      <Facts rows={[
        ["this server", memory(m.rss_bytes)], ["free", `${memory(m.free_bytes)} of ${memory(m.total_bytes)}`],
      ]} />
      <h3>Speed of the last answer</h3>
      <Facts rows={[
        ["reading", rate(speed?.prompt_tokens_per_second)], ["writing", rate(speed?.generated_tokens_per_second)],
        ["since the start", speed ? `${whole(speed.prompt_tokens)} tokens read, ${whole(speed.generated_tokens)} written` : "–"],
        ["answers now", machine.answers], ["jobs now", machine.jobs_running],
      ]} />
    </>
  );
}

function System({ live }: ViewProps) {
  const [machine, error] = useMachine();
  const running = live.jobs.filter((job) => job.status === "running").reverse();
  const ended = live.jobs.filter((job) => job.status !== "running").reverse();
  return (
    <div class="columns">
      <Panel title="Jobs" aside={<small>{running.length} running, {ended.length} ended</small>}>
        {live.jobs.length === 0 && <Empty>Nothing has run yet. Loading, downloading, converting and examining show here, in every tab.</Empty>}
        {[...running, ...ended].map((job) => <JobRow key={job.id} job={job} onChange={live.refresh} log />)}
      </Panel>
      <Panel title="System" kind="beside">
        <Failure error={error} />
        {machine ? <MachineFacts machine={machine} /> : !error && <Empty>Asking the server…</Empty>}
      </Panel>
    </div>
  );
}

export const system: View = { name: "system", title: "Jobs and system", show: System };
