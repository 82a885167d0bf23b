// SPDX-License-Identifier: MIT
// Explore: which features fire on which token of a text.
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { call, type Details, type Direction, get, type Inspection, type Said, type Token } from "../api";
import { Bar, Empty, Facts, Failure, LayerChoice, Panel } from "../parts";
import { isTyping } from "../keys";
import { layerOf, same, toggle } from "../pins";
import { promptOf, TextForm } from "../text";
import { number, shown } from "../tokens";
import type { Pin } from "../url";
import type { View, ViewProps } from "../views";

const TOP = 12, SAID = 6;

// What is seen of the text now, and how to look again. The last one stays while another is made.
function useInspection({ live, state }: ViewProps) {
  const [seen, setSeen] = useState<Inspection | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [busy, setBusy] = useState(false);
  const running = useRef<AbortController>();
  const layer = layerOf(live, state), model = live.model?.status === "ready" ? live.model.modelName : undefined;
  const asked = new Set(state.pins.filter((p) => p.layer === layer).map((p) => p.feature));
  if (state.shade !== "total") asked.add(Number(state.shade));
  const features = [...asked].slice(0, 64).join();
  const look = useCallback(async () => {
    running.current?.abort();
    if (layer === undefined || model === undefined || !state.text) return setBusy(false);
    const mine = (running.current = new AbortController());
    setBusy(true);
    try {
      setSeen(await call<Inspection>("POST", "/v1/features/inspect", {
        ...promptOf(state), layer_idx: layer, top_features: TOP, features: features ? features.split(",").map(Number) : [],
      }, mine.signal));
      setError(null);
    } catch (failure) {
      if (mine.signal.aborted) return;
      setSeen(null);
      setError(failure as Error);
    }
    setBusy(false);
  }, [layer, model, state.text, state.chat, features]);
  // A link shows its text at once, another model or a new pin asks again; a text that is typed waits for the button.
  useEffect(() => void look(), [layer, model, features]);
  useEffect(() => () => running.current?.abort(), []);
  return { seen: layer === undefined ? null : seen, error, busy, look, layer };
}

function strength(token: Token, shade: string, rows: Inspection["features"]): number {
  if (shade === "total") return token.total;
  const feature = Number(shade), row = rows.find((r) => r.index === feature);
  return row ? row.activations[token.position]! : token.features.find((f) => f.index === feature)?.activation ?? 0;
}

function spoken(token: Token): string {
  const strongest = token.features[0];
  return `${shown(token.token, token.bytes)}, position ${token.position}, ${token.l0} features`
    + (strongest ? `, strongest ${strongest.index} at ${number(strongest.activation)}` : "");
}

interface TokensProps { seen: Inspection; shade: string; current: number; choose: (position: number) => void }

function Tokens({ seen, shade, current, choose }: TokensProps) {
  const list = useRef<HTMLDivElement>(null);
  const values = seen.tokens.map((t) => (t.special ? 0 : strength(t, shade, seen.features)));
  const max = Math.max(...values, 1e-9);
  useEffect(() => {
    list.current?.querySelector(`#token-${current}`)?.scrollIntoView({ block: "nearest" });
  }, [current]);
  return (
    <div ref={list} class="tokens" role="listbox" aria-label="Tokens" aria-activedescendant={`token-${current}`} tabIndex={0}>
      {seen.tokens.map((token, i) => (
        <span role="option" key={i} id={`token-${i}`} class={`token${token.special ? " special" : ""}${token.token.includes("\n") ? " ends" : ""}`}
          aria-selected={i === current} aria-label={spoken(token)} onMouseEnter={() => choose(i)} onClick={() => choose(i)}
          style={{ "--heat": Math.max(0, values[i]! / max) }}>
          {shown(token.token, token.bytes)}
        </span>
      ))}
    </div>
  );
}

interface FiringProps {
  token: Token; layer: number; pins: Pin[]; shade: string; pin: (feature: number, value: number) => void;
  shadeBy: (feature: number) => void;
}

function Firings({ token, layer, pins, shade, pin, shadeBy }: FiringProps) {
  const max = token.features[0]?.activation ?? 1;
  return (
    <table class="firings">
      <caption><span class="token">{shown(token.token, token.bytes)}</span> position {token.position}, id {token.token_id}: {token.l0} features
        fire, {number(token.total)} in sum</caption>
      <tbody>
        {token.features.map((f) => {
          const pinned = pins.some((p) => same(p, { layer, feature: f.index }));
          return (
            <tr key={f.index}>
              <td><button type="button" class="quiet id" aria-pressed={shade === String(f.index)} title="Shade the text by it"
                aria-label={`Shade by feature ${f.index}`} onClick={() => shadeBy(f.index)}>{f.index}</button></td>
              <td class="grow"><Bar share={f.activation / max} />{f.label && <small>{f.label}</small>}</td>
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

// Directions and measurements of features, asked for once each.
function useFeature(model: string, layer: number, index: number, again: number) {
  const [direction, setDirection] = useState<Direction | null>(null);
  const [details, setDetails] = useState<Details | null>(null);
  const [error, setError] = useState<Error | null>(null);
  useEffect(() => {
    const mine = new AbortController();
    call<{ features: Direction[] }>("POST", "/v1/features/directions", { layer_idx: layer, features: [index], top: SAID }, mine.signal)
      .then((answer) => setDirection(answer.features[0]!), (failure) => mine.signal.aborted || setError(failure));
    return () => mine.abort();
  }, [model, layer, index]);
  useEffect(() => {
    get<Details>(`/feature/layer_${layer}_feature_${index}/details`).then(setDetails, () => undefined);
  }, [model, layer, index, again]);
  return { direction, details, error };
}

function SaidTokens({ list }: { list: Said[] | undefined }) {
  if (!list) return <>…</>;
  return <>{list.map((s) => <span class="token" key={s.token_id} title={`${s.token_id} · ${number(s.logit)}`}>{shown(s.token, s.bytes)}</span>)}</>;
}

interface CardProps {
  seen: Inspection; row: Inspection["features"][number]; pinned: boolean; shaded: boolean; current: number; unpin: () => void;
  shadeBy: () => void; choose: (position: number) => void;
}

function Card({ seen, row, pinned, shaded, current, unpin, shadeBy, choose }: CardProps) {
  const { direction, details, error } = useFeature(seen.model, seen.layer_idx, row.index, row.max);
  const fired = details?.detailed_analysis.top_token_details ?? [];
  const where = row.activations.filter((a) => a > 0).length;
  return (
    <article class="card" aria-label={`Feature ${row.index}`}>
      <div class="line">
        <strong>{row.index}</strong> <span class="title">{row.label ?? details?.description ?? ""}</span>
        <button type="button" class="quiet" aria-pressed={shaded} onClick={shadeBy}>shade</button>
        <button type="button" class="quiet" aria-pressed={pinned} aria-label={`${pinned ? "Unpin" : "Pin"} feature ${row.index}`}
          onClick={unpin}>{pinned ? "★" : "☆"}</button>
      </div>
      <div class="spark" role="img" aria-label={`Fires at ${where} of ${row.activations.length} tokens, ${number(row.max)} at most`}>
        {row.activations.map((a, i) => (
          <i key={i} class={i === current ? "here" : ""} style={{ "--share": row.max > 0 ? a / row.max : 0 }} onMouseEnter={() => choose(i)}
            title={`${shown(seen.tokens[i]?.token ?? "", seen.tokens[i]?.bytes)} ${number(a)}`} />
        ))}
      </div>
      <Facts rows={[
        ["here", `${where} of ${row.activations.length} tokens, most ${number(row.max)}`],
        ["norm", direction ? number(direction.norm) : "…"],
        ["speaks for", <SaidTokens list={direction?.top} />], ["speaks against", <SaidTokens list={direction?.bottom} />],
        ...(fired.length ? [["fired on", fired.map((t) => shown(t.token)).join("  ")] as [string, string]] : []),
      ]} />
      <Failure error={error} />
    </article>
  );
}

function Explore(props: ViewProps) {
  const { live, state, change } = props;
  const { seen, error, busy, look, layer } = useInspection(props);
  const current = Math.min(state.token, (seen?.tokens.length ?? 1) - 1), at = seen?.tokens[current];
  const cursor = useRef(current); // keys may come faster than frames
  cursor.current = current;
  const choose = (token: number) => change({ token: (cursor.current = token) });
  const pin = (feature: number, value: number) => change({ pins: toggle(state.pins, layer!, feature, value) });
  const shadeBy = (feature: number) => change({ shade: state.shade === String(feature) ? "total" : String(feature) });

  useLayoutEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (!seen || event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
      const here = cursor.current, strongest = seen.tokens[here]?.features[0], key = event.key;
      const inside = (event.target as HTMLElement).matches(".tokens"); // elsewhere arrows are the browser's
      const to = key === "j" || (inside && key === "ArrowRight") ? here + 1 : key === "k" || (inside && key === "ArrowLeft") ? here - 1
        : inside && key === "Home" ? 0 : inside && key === "End" ? seen.tokens.length - 1 : undefined;
      if (to !== undefined) choose(Math.max(0, Math.min(to, seen.tokens.length - 1)));
      else if (key === "p" && strongest) pin(strongest.index, strongest.activation);
      else if (key === "s" && strongest) shadeBy(strongest.index);
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });

  const ready = live.model?.status === "ready";
  const cards = seen?.features.filter((row) => state.shade === String(row.index) || state.pins.some((p) => same(p, { layer: seen.layer_idx, feature: row.index })));
  const elsewhere = state.pins.filter((p) => p.layer !== layer).length;
  return (
    <div class="columns explore">
      <div class="stack">
        <Panel title="Text" aside={<LayerChoice live={live} layer={layer} change={change} />}>
          <TextForm {...props} action="Show features" busy={busy} disabled={!ready || layer === undefined} run={look} />
          <Failure error={error} />
          {seen ? (
            <div class={busy ? "stack stale" : "stack"}>
              <p class="legend" role="status">shaded by {state.shade === "total" ? "the sum of all features"
                : <>feature {state.shade} <button type="button" class="quiet" onClick={() => change({ shade: "total" })}>all features</button></>}
                <span class="scale" aria-hidden="true" /></p>
              <Tokens seen={seen} shade={state.shade} current={current} choose={choose} />
            </div>
          ) : (
            <div class="tokens none">
              {!live.model ? <Empty>Asking the server…</Empty> : !ready ? <Empty>No model is loaded: Set up (key 1) loads one.</Empty>
                : layer === undefined ? <Empty>No SAE is loaded: Set up (key 1) loads one.</Empty>
                : <Empty>{busy ? "Reading…" : error ? "" : "The tokens show here, shaded by what fires on them."}</Empty>}
            </div>
          )}
        </Panel>
        <Panel title="Pinned features" kind="pinned" aside={elsewhere > 0 && <small>{elsewhere} more on layers that are not shown</small>}>
          {!cards?.length && <Empty>Star a feature (key p: the strongest of the token) to keep it here and to steer with it.</Empty>}
          <div class="cards">
            {cards?.map((row) => (
              <Card key={`${seen!.layer_idx}.${row.index}`} seen={seen!} row={row} current={current} choose={choose}
                pinned={state.pins.some((p) => same(p, { layer: seen!.layer_idx, feature: row.index }))}
                unpin={() => pin(row.index, row.max)} shadeBy={() => shadeBy(row.index)} shaded={state.shade === String(row.index)} />
            ))}
          </div>
        </Panel>
      </div>
      <Panel title="At this token" kind="beside">
        {at ? <Firings token={at} layer={seen!.layer_idx} pins={state.pins} shade={state.shade} pin={pin} shadeBy={shadeBy} />
          : <Empty>Hover or tap a token, or go along them with j and k.</Empty>}
      </Panel>
    </div>
  );
}

export const explore: View = {
  name: "explore", title: "Explore", show: Explore,
  keys: [["j  k", "next, previous token; ← → where the tokens have the focus"], ["p", "pin the strongest feature of the token"], ["s", "shade the text by it"]],
};
