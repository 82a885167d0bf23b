// SPDX-License-Identifier: MIT
// Tokens as what they are: spaces, line ends and halves of characters can be seen.

const NAMES: Record<string, string> = { "\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "⍽", "\u200b": "∅", "\ufeff": "∅" };

// Without a valid text of its own a token is shown as its bytes.
export function shown(token: string, bytes?: number[]): string {
  if (bytes && token.includes("\ufffd") && !isText(bytes)) {
    return bytes.map((b) => `⟨${b.toString(16).padStart(2, "0")}⟩`).join("");
  }
  return token.replace(/[\n\r\t\u00a0\u200b\ufeff]/g, (c) => NAMES[c]!).replace(/^ | $/g, "·")
    .replace(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, (c) => `⟨${c.charCodeAt(0).toString(16)}⟩`);
}

function isText(bytes: number[]): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(bytes));
    return true;
  } catch {
    return false;
  }
}

export const number = (x: number) =>
  Math.abs(x) >= 1000 ? x.toFixed(0) : Math.abs(x) >= 10 ? x.toFixed(1) : x.toFixed(2);

export function bytes(n: number): string {
  if (n < 1e6) return `${(n / 1e3).toFixed(0)} kB`;
  return n < 1e9 ? `${(n / 1e6).toFixed(0)} MB` : `${(n / 1e9).toFixed(2)} GB`;
}

export function duration(seconds: number): string {
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  return s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
}
