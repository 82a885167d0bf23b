// SPDX-License-Identifier: MIT
// The frame: what is loaded, the views, keys that work everywhere.
import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { areOn, isField, isTyping, turn } from "./keys";
import { type Live, useLive } from "./live";
import { useUrl } from "./url";
import { VIEWS } from "./views";

const KEYS: [string, string][] = [
  [`1 – ${VIEWS.length}`, "another view"], ["/", "to the text"], ["Ctrl Enter", "show features, or write"],
  ["Esc", "leave a field, close this"], ["?", "these keys"], ...VIEWS.flatMap((v) => v.keys ?? []),
];

function Keys(props: { open: boolean; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [on, setOn] = useState(areOn);
  useEffect(() => {
    if (props.open) dialog.current?.showModal();
    else dialog.current?.close();
  }, [props.open]);
  return (
    <dialog ref={dialog} onClose={props.close} aria-label="Keys">
      <h2>Keys</h2>
      <dl class="facts">{KEYS.map(([key, what]) => <div key={key}><dt><kbd>{key}</kbd></dt><dd>{what}</dd></div>)}</dl>
      <form method="dialog" class="line">
        <button>Close</button>
        <label class="check"><input type="checkbox" checked={on} onChange={(e) => {
          turn(e.currentTarget.checked);
          setOn(e.currentTarget.checked);
        }} /> single keys work</label>
      </form>
    </dialog>
  );
}

const STATUS: Record<string, string> = { idle: "no model", loading: "loading a model", error: "loading failed", ready: "" };

function Loaded(props: { live: Live }) {
  const { model, sae } = props.live;
  return (
    <p class="loaded" role="status">
      <span class={`dot ${model?.status ?? "idle"}`} />
      <span class="name">{!model ? "…" : model.status === "ready" ? model.modelName : STATUS[model.status]}</span>
      {sae?.layers?.map((l) => <span class="chip" key={l.layer_idx}>SAE layer {l.layer_idx}</span>)}
    </p>
  );
}

function AskToken() {
  const field = useRef<HTMLInputElement>(null);
  const enter = (event: Event) => {
    event.preventDefault();
    location.assign(`/?token=${encodeURIComponent(field.current!.value.trim())}${location.hash}`);
  };
  return (
    <form class="banner" onSubmit={enter}>
      <label>The server asks for its token <input ref={field} type="password" autocomplete="off" /></label>
      <button>Go on</button>
    </form>
  );
}

function Page() {
  const live = useLive();
  const [state, change] = useUrl();
  const [keys, showKeys] = useState(false);
  const view = VIEWS.find((v) => v.name === state.view) ?? VIEWS[0]!;
  const main = useRef<HTMLElement>(null);

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key === "Escape" && isField(event.target)) (event.target as HTMLElement).blur();
      if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
      const other = VIEWS[Number(event.key) - 1];
      if (other) {
        change({ view: other.name });
        main.current?.focus(); // what had it is gone; a screen reader begins at the view
      }
      else if (event.key === "?") showKeys(true);
      else if (event.key === "/") {
        event.preventDefault();
        document.querySelector<HTMLElement>("main textarea, main input")?.focus();
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [change]);

  useEffect(() => {
    document.title = `${view.title} · moonscope`;
  }, [view]);

  return (
    <>
      <header class="top">
        <h1>moonscope</h1>
        <nav aria-label="Views">
          {VIEWS.map((v) => (
            <button type="button" key={v.name} aria-current={v === view ? "page" : undefined}
              onClick={() => change({ view: v.name })}>{v.title}</button>
          ))}
        </nav>
        <Loaded live={live} />
        <button type="button" class="quiet" aria-label="Keys" onClick={() => showKeys(true)}>?</button>
      </header>
      {live.refused ? <AskToken /> : !live.connected && (
        <p class="banner" role="alert">The server does not answer. This page goes on by itself once it is back.</p>
      )}
      <main ref={main} tabIndex={-1} aria-label={view.title}><view.show live={live} state={state} change={change} /></main>
      <Keys open={keys} close={() => showKeys(false)} />
    </>
  );
}

render(<Page />, document.getElementById("app")!);
