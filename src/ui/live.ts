// SPDX-License-Identifier: MIT
// What the server holds, kept up to date: told over the WebSocket, asked for again when that breaks.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, type Job, type ModelStatus, type SaeStatus } from "./api";

export interface Live {
  model: ModelStatus | null; sae: SaeStatus | null; jobs: Job[];
  connected: boolean; refused: ApiError | null; refresh: () => Promise<void>;
}

const RETRY_MS = 1000, JOBS_MS = 500;

function socketUrl(): string {
  const url = new URL("/ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  return url.href;
}

export function useLive(): Live {
  const [model, setModel] = useState<ModelStatus | null>(null);
  const [sae, setSae] = useState<SaeStatus | null>(null);
  const [jobs, setJobs] = useState<Job[]>([]);
  const [connected, setConnected] = useState(true);
  const [refused, setRefused] = useState<ApiError | null>(null);
  const timer = useRef<number>();

  const refresh = useCallback(async () => {
    clearTimeout(timer.current);
    try {
      const [m, s, j] = await Promise.all([
        get<ModelStatus>("/model/status"), get<SaeStatus>("/sae/status"), get<{ jobs: Job[] }>("/jobs"),
      ]);
      setModel(m);
      setSae(s);
      setJobs(j.jobs);
      setConnected(true);
      setRefused(null);
      if (j.jobs.some((job) => job.status === "running")) timer.current = window.setTimeout(refresh, JOBS_MS);
    } catch (error) {
      const failure = error as ApiError;
      setConnected(failure.status !== 0);
      setRefused(failure.status === 401 ? failure : null);
      timer.current = window.setTimeout(refresh, RETRY_MS);
    }
  }, []);

  useEffect(() => {
    let socket: WebSocket | undefined, again: number | undefined, over = false;
    const listen = () => {
      socket = new WebSocket(socketUrl());
      socket.onopen = () => void refresh();
      socket.onmessage = (event) => {
        if (JSON.parse(event.data).type === "model_status") void refresh();
      };
      socket.onclose = () => {
        if (over) return;
        void refresh();
        again = window.setTimeout(listen, RETRY_MS);
      };
    };
    listen();
    return () => {
      over = true;
      clearTimeout(again);
      clearTimeout(timer.current);
      socket?.close();
    };
  }, [refresh]);

  return { model, sae, jobs, connected, refused, refresh };
}
