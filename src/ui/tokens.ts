// SPDX-License-Identifier: MIT
// Tokens as what they are: spaces, line ends, what has no glyph of its own, and halves of characters can be seen.

const NAMES: Record<string, string> = { "\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "⍽" };
// Controls, formats (direction marks, joiners), separators, private and unassigned ones.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\u115f\u1160\u3164]/gu;

const code = (c: string) => NAMES[c] ?? `⟨${c.codePointAt(0)!.toString(16)}⟩`;

// Without a valid text of its own a token is shown as its bytes.
export function shown(token: string, bytes?: number[]): string {
  if (bytes && token.includes("\ufffd") && !isText(bytes)) {
    return bytes.map((b) => (b > 0x20 && b < 0x7f ? String.fromCharCode(b) : `⟨${b.toString(16).padStart(2, "0")}⟩`)).join("");
  }
  const seen = token.replace(/^ +| +$|  +/g, (run) => "·".repeat(run.length)).replace(UNSEEN, code);
  return seen === "" ? "⟨empty⟩" : /^\p{M}/u.test(seen) ? "◌" + seen : seen;
}

function isText(bytes: number[]): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(bytes));
    return true;
  } catch {
    return false;
  }
}

export function number(x: number): string {
  const size = Math.abs(x);
  if (size >= 1e5 || (size > 0 && size < 0.01)) return x.toPrecision(2);
  return size >= 1000 ? x.toFixed(0) : size >= 10 ? x.toFixed(1) : x.toFixed(2);
}

export const whole = (n: number) => n.toLocaleString("en");

// Memory is told in GiB, as the commands do; files and downloads in GB.
export function memory(n: number): string {
  if (n < 2 ** 20) return `${(n / 2 ** 10).toFixed(0)} KiB`;
  return n < 2 ** 30 ? `${(n / 2 ** 20).toFixed(1)} MiB` : `${(n / 2 ** 30).toFixed(2)} GiB`;
}

export function bytes(n: number): string {
  if (n < 1e6) return `${(n / 1e3).toFixed(0)} kB`;
  return n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(2)} GB`;
}

export function duration(seconds: number): string {
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  return s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
}
