// SPDX-License-Identifier: MIT
// The views of the page, in the order of their tabs and number keys. One more is a file in views/ that exports a
// View, and its name in this list.
import type { FunctionComponent } from "preact";
import type { Live } from "./live";
import type { State } from "./url";
import { explore } from "./views/explore";
import { setup } from "./views/setup";
import { steer } from "./views/steer";
import { system } from "./views/system";

export interface ViewProps { live: Live; state: State; change: (change: Partial<State>) => void }
// name: in the URL, #/name; keys: what it does with the keyboard, shown under "?"
export interface View { name: string; title: string; show: FunctionComponent<ViewProps>; keys?: [string, string][] }

export const VIEWS: View[] = [setup, explore, steer, system];
