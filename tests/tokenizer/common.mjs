// SPDX-License-Identifier: MIT
// What both comparisons share: random text, the program under test, the report.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../..", import.meta.url));
export const readJson = (path) => JSON.parse(readFileSync(path, "utf8"));

// A small generator of our own, so that a failure comes again.
let state = 20240726;
export function below(n) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
}
export const pick = (list) => list[below(list.length)];

// Letters and numbers that Unicode 15 and later added: whether a code point is one depends on the
// Unicode version of PCRE2 (14 in Debian 12) and of Node.
const newer =
  "88f c5c cdc 1c89-1c8a a7cb-a7dc a7f1 105c0-105f3 10940-10959 10d40-10d85 10ec2-10ec7 1123f-11240 " +
  "11380-113d3 116d0-116e3 11bc0-11bf9 11db0-11de9 11f02-11f59 1342f-143fa 16100-16139 16d40-16d79 " +
  "16ea0-16ed3 16ff2-16ff6 187f8-187ff 18cff-18df2 1b132-1b155 1ccf0-1ccf9 1d2c0-1d2d3 1df25-1df2a " +
  "1e030-1e06d 1e4d0-1e4f9 1e5d0-1e5fa 1e6c0-1e6ff 2b739-2b73f 2cea2-2cead 2ebf0-2ee5d 31350-33479";
const newerRanges = newer.split(" ").map((range) => range.split("-").map((hex) => parseInt(hex, 16)));
const isNewer = (code) => newerRanges.some(([first, last = first]) => code >= first && code <= last);

const planes = [
  [0x0, 0x7f], [0x80, 0x7ff], [0x800, 0xd7ff], [0xe000, 0xffff], [0x10000, 0x1ffff], [0x20000, 0x2ffff],
  [0x30000, 0x3ffff], [0xe0000, 0xeffff], [0xf0000, 0x10ffff],
];
export function randomCharacter() {
  const [first, last] = pick(planes);
  const code = first + below(last - first + 1);
  return isNewer(code) ? randomCharacter() : String.fromCodePoint(code);
}

export function randomText(bits, most) {
  let text = "";
  for (let n = below(most + 1); n > 0; n--) text += below(3) ? pick(bits) : randomCharacter();
  return text;
}

// The answers of tests/tokenizer/driver.lua, one for each request.
export function ask(program, folder, requests) {
  const input = requests.map((request) => JSON.stringify(request) + "\n").join("");
  const run = spawnSync(program, [root + "tests/tokenizer/driver.lua", folder], { input, maxBuffer: 2 ** 30 });
  if (run.status !== 0) throw new Error(`${program}: exit ${run.status}: ${run.error ?? run.stderr}`);
  return run.stdout.toString().trimEnd().split("\n").map((line) => JSON.parse(line));
}

export class Report {
  checks = 0;
  failures = 0;
  same(what, found, expected) {
    this.checks++;
    if (JSON.stringify(found) === JSON.stringify(expected)) return;
    if (++this.failures <= 10) {
      console.log(`${what}\n  found    ${JSON.stringify(found)}\n  expected ${JSON.stringify(expected)}`);
    }
  }
  end(what) {
    console.log(`${what}: ${this.checks} checks, ${this.failures} differences`);
    if (this.failures) process.exitCode = 1;
  }
}
