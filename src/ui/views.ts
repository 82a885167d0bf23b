// SPDX-License-Identifier: MIT
// The views of the page: one file and one entry each.
import type { FunctionComponent } from "preact";
import type { Live } from "./live";
import type { State } from "./url";
import { Explore } from "./views/explore";
import { Setup } from "./views/setup";
import { Steer } from "./views/steer";
import { System } from "./views/system";

export interface ViewProps { live: Live; state: State; change: (change: Partial<State>) => void }
export interface View { name: string; title: string; show: FunctionComponent<ViewProps> }

export const VIEWS: View[] = [
  { name: "setup", title: "Set up", show: Setup },
  { name: "explore", title: "Explore", show: Explore },
  { name: "steer", title: "Steer", show: Steer },
  { name: "system", title: "Jobs and system", show: System },
];
