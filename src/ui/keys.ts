// SPDX-License-Identifier: MIT
// Single keys: where they are typed, and whether they do anything at all (speech input types letters too).

const STORED = "moonscope.keys";

export function areOn(): boolean {
  try {
    return localStorage.getItem(STORED) !== "off";
  } catch {
    return true;
  }
}

export function turn(on: boolean) {
  try {
    localStorage.setItem(STORED, on ? "on" : "off");
  } catch {
    // a browser that keeps nothing has them on
  }
}

// Where letters are typed; a box that is ticked takes none.
export const isField = (target: EventTarget | null) => target instanceof HTMLElement
  && target.matches("input:not([type=checkbox], [type=range], [type=file]), textarea, select");

// Whether a key is a field's, a dialog's, or switched off.
export const isTyping = (event: KeyboardEvent) => isField(event.target) || document.querySelector("dialog[open]") !== null || !areOn();
