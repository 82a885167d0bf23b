// SPDX-License-Identifier: MIT
// Patches as a file: what the server exports, and what may be anybody's when it comes back.

const OPS = ["add", "set", "scale"], MAX_BYTES = 1 << 20, MAX_PATCHES = 256;

export interface NewPatch { feature_id: number; layer_idx: number; op: string; strength: number; enabled: boolean; name?: string }

const isIndex = (x: unknown): x is number => Number.isInteger(x) && (x as number) >= 0;

function patchOf(p: any, number: number): NewPatch {
  const fail = (what: string) => new Error(`patches[${number}]: ${what}`);
  if (typeof p !== "object" || p === null) throw fail("expected an object");
  if (!isIndex(p.layer_idx)) throw fail("layer_idx: expected a whole number from 0");
  if (!isIndex(p.feature_idx)) throw fail("feature_idx: expected a whole number from 0");
  if (typeof p.strength !== "number" || !Number.isFinite(p.strength)) throw fail("strength: expected a number");
  if (!OPS.includes(p.op ?? "add")) throw fail(`op: expected one of ${OPS.join(", ")}`);
  return {
    feature_id: p.feature_idx, layer_idx: p.layer_idx, op: p.op ?? "add", strength: p.strength, enabled: p.isEnabled !== false,
    ...(typeof p.name === "string" ? { name: p.name } : {}),
  };
}

// Throws one line that says what is wrong with the file; nothing is taken of one that is wrong.
export async function readPatches(file: File): Promise<NewPatch[]> {
  if (file.size > MAX_BYTES) throw new Error(`${file.name}: larger than 1 MiB: not a file of patches`);
  let value: any;
  try {
    value = JSON.parse(await file.text());
  } catch {
    throw new Error(`${file.name}: not JSON: choose a file that Export made`);
  }
  const list = Array.isArray(value) ? value : value?.patches;
  if (!Array.isArray(list)) throw new Error(`${file.name}: it has no list of patches: choose a file that Export made`);
  if (list.length > MAX_PATCHES) throw new Error(`${file.name}: ${list.length} patches, at most ${MAX_PATCHES} can be kept`);
  try {
    return list.map(patchOf);
  } catch (error) {
    throw new Error(`${file.name}: ${(error as Error).message}`);
  }
}

export function save(name: string, text: string) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

