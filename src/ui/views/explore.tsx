// SPDX-License-Identifier: MIT
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { call, type Details, get, type Inspection, type Token } from "../api";
import { Bar, Empty, Facts, Failure, Panel } from "../parts";
import { same, toggle } from "../pins";
import { messagesOf, TextForm } from "../text";
import { number, shown } from "../tokens";
import type { Pin } from "../url";
import type { ViewProps } from "../views";

const TOP = 12;

function prompt(text: string, chat: boolean) {
  return chat ? { messages: messagesOf(text) } : { text };
}

// What is seen of the text now, and how to look again.
function useInspection({ live, state }: ViewProps) {
  const [seen, setSeen] = useState<Inspection | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [busy, setBusy] = useState(false);
  const running = useRef<AbortController>();
  const layer = live.sae?.layers?.[0]?.layer_idx;
  const pins = state.pins.filter((p) => p.layer === layer).map((p) => p.feature);
  const look = useCallback(async () => {
    if (layer === undefined) return;
    running.current?.abort();
    const mine = (running.current = new AbortController());
    setBusy(true);
    try {
      setSeen(await call<Inspection>("POST", "/v1/features/inspect", {
        ...prompt(state.text, state.chat), layer_idx: layer, top_features: TOP, features: pins,
      }, mine.signal));
      setError(null);
    } catch (failure) {
      if (mine.signal.aborted) return;
      setSeen(null);
      setError(failure as Error);
    }
    setBusy(false);
  }, [layer, state.text, state.chat, pins.join()]);
  // A link shows its text at once; a new pin asks for its row.
  useEffect(() => void look(), [layer, pins.join()]);
  return { seen, error, busy, look, layer };
}

function strength(token: Token, shade: string, rows: Inspection["features"]): number {
  if (shade === "total") return token.total;
  const feature = Number(shade);
  const row = rows.find((r) => r.index === feature);
  return row ? row.activations[token.position]! : token.features.find((f) => f.index === feature)?.activation ?? 0;
}

interface TokensProps { seen: Inspection; shade: string; current: number; choose: (position: number) => void }

function Tokens({ seen, shade, current, choose }: TokensProps) {
  const values = seen.tokens.map((t) => (t.special ? 0 : strength(t, shade, seen.features)));
  const max = Math.max(...values, 1e-9);
  return (
    <div class="tokens" role="listbox" aria-label="Tokens" aria-activedescendant={`token-${current}`} tabIndex={0}>
      {seen.tokens.map((token, i) => (
        <span role="option" key={i} id={`token-${i}`} class={`token${token.special ? " special" : ""}`}
          aria-selected={i === current} onMouseEnter={() => choose(i)} onClick={() => choose(i)}
          style={{ "--heat": values[i]! / max }} title={`${token.token_id} · ${number(values[i]!)}`}>
          {shown(token.token, token.bytes)}
        </span>
      ))}
    </div>
  );
}

interface FiringProps { token: Token; layer: number; pins: Pin[]; shade: string; pin: (feature: number, value: number) => void; shadeBy: (feature: number) => void }

function Firings({ token, layer, pins, shade, pin, shadeBy }: FiringProps) {
  const max = token.features[0]?.activation ?? 1;
  return (
    <table class="firings">
      <caption><span class="token">{shown(token.token, token.bytes)}</span> {token.l0} features fire at position {token.position}</caption>
      <tbody>
        {token.features.map((f) => {
          const pinned = pins.some((p) => same(p, { layer, feature: f.index }));
          return (
            <tr key={f.index}>
              <td><button type="button" class="quiet" aria-pressed={shade === String(f.index)} title="Shade the text by it"
                onClick={() => shadeBy(f.index)}>{f.index}</button></td>
              <td class="grow"><Bar share={f.activation / max} /><small>{f.label ?? ""}</small></td>
              <td class="numbers">{number(f.activation)}</td>
              <td><button type="button" class="quiet" aria-pressed={pinned} onClick={() => pin(f.index, f.activation)}
                aria-label={`${pinned ? "Unpin" : "Pin"} feature ${f.index}`}>{pinned ? "★" : "☆"}</button></td>
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}

function Card(props: { layer: number; row: Inspection["features"][number]; tokens: Token[]; unpin: () => void; shadeBy: () => void; shaded: boolean }) {
  const { layer, row } = props;
  const [details, setDetails] = useState<Details | null>(null);
  useEffect(() => {
    get<Details>(`/feature/layer_${layer}_feature_${row.index}/details`).then(setDetails, () => undefined);
  }, [layer, row.index, row.max]);
  const measured = details?.detailed_analysis;
  return (
    <article class="card" aria-label={`Feature ${row.index}`}>
      <div class="line">
        <strong>{row.index}</strong> <span class="title">{row.label ?? details?.description ?? ""}</span>
        <button type="button" class="quiet" aria-pressed={props.shaded} onClick={props.shadeBy}>shade</button>
        <button type="button" class="quiet" aria-label={`Unpin feature ${row.index}`} onClick={props.unpin}>✕</button>
      </div>
      <div class="spark" role="img" aria-label={`Activations along the text, ${number(row.max)} at most`}>
        {row.activations.map((a, i) => <i key={i} style={{ "--share": row.max > 0 ? a / row.max : 0 }} title={`${shown(props.tokens[i]?.token ?? "")} ${number(a)}`} />)}
      </div>
      <Facts rows={[
        ["most here", number(row.max)], ["norm of its direction", measured ? number(measured.weight_norm) : "…"],
        ["fired on", measured?.top_token_details.length
          ? measured.top_token_details.map((t) => shown(t.token)).join("  ") : "nothing measured yet"],
      ]} />
    </article>
  );
}

export function Explore(props: ViewProps) {
  const { live, state, change } = props;
  const { seen, error, busy, look, layer } = useInspection(props);
  const [current, choose] = useState(0);
  const at = seen?.tokens[Math.min(current, (seen?.tokens.length ?? 1) - 1)];
  const pin = (feature: number, value: number) => change({ pins: toggle(state.pins, layer!, feature, value) });

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (!seen || event.ctrlKey || event.metaKey || (event.target as HTMLElement).matches("input, textarea, select")) return;
      const strongest = at?.features[0];
      if (event.key === "j" || event.key === "ArrowRight") choose((c) => Math.min(c + 1, seen.tokens.length - 1));
      else if (event.key === "k" || event.key === "ArrowLeft") choose((c) => Math.max(c - 1, 0));
      else if (event.key === "p" && strongest) pin(strongest.index, strongest.activation);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });

  const ready = live.model?.status === "ready";
  return (
    <div class="columns">
      <div class="stack">
      <Panel title="Text">
        <TextForm {...props} action="Show features" busy={busy} disabled={layer === undefined} run={look} />
        {!ready && <Empty>No model is loaded: see Set up (key 1).</Empty>}
        {ready && layer === undefined && <Empty>No SAE is loaded: see Set up (key 1).</Empty>}
        <Failure error={error} />
        {seen && (
          <>
            <p class="legend">shaded by {state.shade === "total" ? "the sum of all features"
              : <>feature {state.shade} <button type="button" class="quiet" onClick={() => change({ shade: "total" })}>all</button></>}</p>
            <Tokens seen={seen} shade={state.shade} current={current} choose={choose} />
          </>
        )}
      </Panel>
      <Panel title="Pinned features">
        {state.pins.length === 0 && <Empty>Star a feature to keep it here and to steer with it.</Empty>}
        <div class="cards">
          {seen?.features.map((row) => (
            <Card key={row.index} layer={seen.layer_idx} row={row} tokens={seen.tokens} unpin={() => pin(row.index, 0)}
              shadeBy={() => change({ shade: String(row.index) })} shaded={state.shade === String(row.index)} />
          ))}
        </div>
      </Panel>
      </div>
      <Panel title="At this token">
        {at ? <Firings token={at} layer={layer!} pins={state.pins} shade={state.shade} pin={pin}
          shadeBy={(f) => change({ shade: String(f) })} /> : <Empty>Hover a token, or go along them with j and k.</Empty>}
      </Panel>
    </div>
  );
}
