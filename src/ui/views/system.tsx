// SPDX-License-Identifier: MIT
import { useEffect, useState } from "preact/hooks";
import { get, type System as Machine } from "../api";
import { Empty, Facts, Failure, JobRow, Panel } from "../parts";
import { bytes, duration } from "../tokens";
import type { ViewProps } from "../views";

const EVERY_MS = 2000;

export function System({ live }: ViewProps) {
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
  const jobs = [...live.jobs].reverse();
  return (
    <div class="columns">
      <Panel title="Jobs">
        {jobs.length === 0 && <Empty>Nothing has run yet. Loading, downloading and converting show here.</Empty>}
        {jobs.map((job) => <JobRow key={job.id} job={job} onChange={live.refresh} />)}
      </Panel>
      <Panel title="System">
        <Failure error={error} />
        {machine && (
          <Facts rows={[
            ["version", machine.version], ["up", duration(machine.uptime_seconds)],
            ["devices", machine.devices.join(", ")], ["instruction set", machine.instruction_set],
            ["memory of the server", bytes(machine.memory.rss_bytes)],
            ["free", `${bytes(machine.memory.free_bytes)} of ${bytes(machine.memory.total_bytes)}`],
            ["answers now", machine.answers], ["jobs now", machine.jobs_running],
          ]} />
        )}
      </Panel>
    </div>
  );
}
