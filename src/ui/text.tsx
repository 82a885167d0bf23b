// SPDX-License-Identifier: MIT
// The text that is looked at: plain, or a conversation written as lines that begin with a role.
import type { Message } from "./api";
import type { State } from "./url";

const ROLE = /^(system|user|assistant):[ \t]*/;

// "user: Hello" begins a message; lines without a role belong to the one before, or to a first user.
function messagesOf(text: string): Message[] {
  const messages: Message[] = [];
  for (const line of text.split("\n")) {
    const role = ROLE.exec(line)?.[1] as Message["role"] | undefined;
    if (role || messages.length === 0) messages.push({ role: role ?? "user", content: line.replace(ROLE, "") });
    else messages[messages.length - 1]!.content += "\n" + line;
  }
  return messages;
}

export function promptOf({ text, chat }: State): { text: string } | { messages: Message[] } {
  return chat ? { messages: messagesOf(text) } : { text };
}

interface Props {
  state: State; change: (change: Partial<State>) => void; action: string; busy: boolean; disabled: boolean; run: () => void;
  stop?: () => void;
}

export function TextForm({ state, change, action, busy, disabled, run, stop }: Props) {
  const submit = (event: Event) => {
    event.preventDefault();
    if (!disabled && state.text) run();
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  };
  return (
    <form class="stack" onSubmit={submit}>
      <label for="text">{state.chat ? "A conversation: lines that begin with system:, user: or assistant:" : "A text"}</label>
      <textarea id="text" rows={4} value={state.text} onKeyDown={onKey} spellcheck={false}
        onInput={(e) => change({ text: e.currentTarget.value })} />
      <div class="line">
        <button class="primary" disabled={disabled || !state.text} aria-busy={busy}>{action}</button>
        {stop && <button type="button" disabled={!busy} onClick={stop}>Stop</button>}
        <label class="check"><input type="checkbox" checked={state.chat}
          onChange={(e) => change({ chat: e.currentTarget.checked })} /> as a chat</label>
        <small class="hint"><kbd>Ctrl</kbd> <kbd>Enter</kbd></small>
      </div>
    </form>
  );
}
