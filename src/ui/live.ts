// SPDX-License-Identifier: MIT
// What the server holds, kept up to date whoever changes it: told over the WebSocket, asked for again when that
// breaks.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, type Job, type ModelStatus, type Patch, type SaeStatus } from "./api";

export interface Live {
  model: ModelStatus | null; sae: SaeStatus | null; jobs: Job[]; patches: Patch[];
  connected: boolean; refused: ApiError | null; refresh: () => Promise<void>;
}

const RETRY_MS = 1000, JOBS_MS = 500;
const CHANGES = /^(model_status|job_update|patch_)/;

function socketUrl(): string {
  const url = new URL("/ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  return url.href;
}

type Held = Pick<Live, "model" | "sae" | "jobs" | "patches">;

async function ask(): Promise<Held> {
  const [model, sae, { jobs }, patches] = await Promise.all([
    get<ModelStatus>("/model/status"), get<SaeStatus>("/sae/status"), get<{ jobs: Job[] }>("/jobs"), get<Patch[]>("/patches"),
  ]);
  return { model, sae, jobs, patches };
}

export function useLive(): Live {
  const [held, setHeld] = useState<Held>({ model: null, sae: null, jobs: [], patches: [] });
  const [connected, setConnected] = useState(true);
  const [refused, setRefused] = useState<ApiError | null>(null);
  const timer = useRef<number>(), round = useRef<Promise<void> | null>(null), queued = useRef<Promise<void> | null>(null);

  const once = useCallback(async () => {
    clearTimeout(timer.current);
    try {
      const now = await ask();
      setHeld(now);
      setConnected(true);
      setRefused(null);
      if (now.jobs.some((job) => job.status === "running")) timer.current = window.setTimeout(refresh, JOBS_MS);
    } catch (error) {
      const failure = error as ApiError;
      setConnected(failure.status !== 0);
      setRefused(failure.status === 401 ? failure : null);
      timer.current = window.setTimeout(refresh, RETRY_MS);
    }
  }, []);

  // One round at a time. Whoever asks meanwhile gets the next one, which has seen what was done before.
  const refresh = useCallback((): Promise<void> => {
    if (!round.current) {
      return (round.current = once().finally(() => {
        round.current = null;
      }));
    }
    return (queued.current ??= round.current.then(() => {
      queued.current = null;
      return refresh();
    }));
  }, []);

  useEffect(() => {
    let socket: WebSocket | undefined, again: number | undefined, over = false;
    const listen = () => {
      socket = new WebSocket(socketUrl());
      socket.onopen = () => void refresh();
      socket.onmessage = (event) => {
        if (CHANGES.test(JSON.parse(event.data).type)) void refresh();
      };
      socket.onclose = () => {
        if (over) return;
        void refresh();
        again = window.setTimeout(listen, RETRY_MS);
      };
    };
    void refresh();
    listen();
    return () => {
      over = true;
      clearTimeout(again);
      clearTimeout(timer.current);
      socket?.close();
    };
  }, [refresh]);

  return { ...held, connected, refused, refresh };
}
