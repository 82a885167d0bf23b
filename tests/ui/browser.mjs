// SPDX-License-Identifier: MIT
// Servers, data folders and pages for the tests of the web page.
import { spawn } from "node:child_process";
import {
  closeSync, cpSync, existsSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, readFileSync, renameSync, rmSync, writeFileSync, writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { chromium } from "playwright-core";

export const SAE = "tiny/Moonscope-Tiny-Llama-SAE-l3.pth";
const PATIENCE_MS = 60000; // a deadline that only a hang reaches

const folders = [];
export function folder() {
  const path = mkdtempSync(join(tmpdir(), "moonscope-ui-"));
  folders.push(path);
  return path;
}

export function removeFolders() {
  for (const path of folders) rmSync(path, { recursive: true, force: true });
}

// A data folder with a copy of the tiny model.
export function dataFolder() {
  const data = folder();
  cpSync("examples/tiny", join(data, "tiny"), { recursive: true });
  return data;
}

// Waits for the thing itself; the deadline is for hangs.
export async function until(what, done) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const value = await done();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`waited in vain for ${what}`);
    await new Promise((r) => setTimeout(r, 20));
  }
}

// `moonscope serve`; stop() ends it, log() is its stderr.
export function serve(program, { port = "0", data = "examples", args = [], env = {} } = {}) {
  const server = spawn(program, ["serve", "--port", port, "--data", data, ...args],
    { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, MOONSCOPE_TOKEN: "", ...env } });
  let log = "";
  server.stderr.on("data", (text) => (log += text));
  return new Promise((resolve, reject) => {
    server.on("exit", (code) => reject(new Error(`the server ended with ${code}: ${log}`)));
    server.stdout.on("data", (text) => {
      const url = /http:\S+/.exec(String(text));
      if (!url) return;
      resolve({
        url: url[0], port: new URL(url[0]).port, log: () => log,
        stop: (signal = "SIGTERM") => new Promise((r) => {
          if (server.exitCode !== null || server.signalCode !== null) return r();
          server.on("exit", r);
          server.kill(signal);
        }),
      });
    });
  });
}

// A Hub on loopback (tests/hub/mock.mjs) and the environment that leads to it.
export async function mockHub() {
  const home = folder();
  const hub = spawn("node", ["tests/hub/mock.mjs", home], { stdio: ["pipe", "inherit", "inherit"] });
  await until("the mock Hub", () => existsSync(join(home, "ports.json")));
  const { hub: port } = JSON.parse(readFileSync(join(home, "ports.json"), "utf8"));
  let id = 0;
  return {
    home,
    env: { HF_HOME: join(home, "cache"), HF_ENDPOINT: `http://127.0.0.1:${port}`, HF_HUB_OFFLINE: "", HF_TOKEN: "" },
    scenario(repos, rules = []) {
      writeFileSync(join(home, "scenario.tmp"), JSON.stringify({ id: ++id, repos, rules }));
      renameSync(join(home, "scenario.tmp"), join(home, "scenario.json"));
    },
    repo: (files) => ({ commit: "0123456789abcdef".repeat(3).slice(0, 40), refs: { main: "0123456789abcdef".repeat(3).slice(0, 40) }, files }),
    stop: () => new Promise((r) => {
      hub.on("exit", r);
      hub.stdin.end();
    }),
  };
}

export const tinySae = () => ({ from: resolve("examples", SAE), lfs: true });

// A file of routes that adds autoencoders to the list of published ones.
export function publish(folder, entries) {
  const path = join(folder, "routes.lua");
  writeFileSync(path, `local configs = require("moonscope.sae_configs").SAE_CONFIGS\n${Object.entries(entries).map(([name, e]) =>
    `configs["${name}"] = { ${e.repo_id ? `repo_id = "${e.repo_id}", ` : ""}filename = "${e.filename}", layer = "model.layers.3", `
    + `expansion_factor = ${e.expansion_factor}, d_model = 128 }\n`).join("")}return {}\n`);
  return path;
}

// A safetensors file of zeros, which takes no room on the disk.
function sparseFile(path, dtype, shapes) {
  const header = {}, size = { F32: 4, BF16: 2 }[dtype];
  let at = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    header[name] = { dtype, shape, data_offsets: [at, (at += size * shape.reduce((a, b) => a * b))] };
  }
  const text = Buffer.from(JSON.stringify(header)), head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(text.length));
  const file = openSync(path, "w");
  writeSync(file, Buffer.concat([head, text]));
  ftruncateSync(file, 8 + text.length + at);
  closeSync(file);
}

export function sparseSae(path, d_sae, d_model = 128) {
  sparseFile(path, "F32", {
    "encoder_linear.weight": [d_sae, d_model], "decoder_linear.weight": [d_model, d_sae], "encoder_linear.bias": [d_sae],
    "decoder_linear.bias": [d_model],
  });
}

// A model whose longest context takes more memory than any machine has: 2 TiB.
export function hugeContext(data, name) {
  const to = join(data, name), tiny = JSON.parse(readFileSync("examples/tiny/config.json", "utf8"));
  const n_layers = 32, d = 1024, shapes = { "model.embed_tokens.weight": [tiny.vocab_size, d], "model.norm.weight": [d] };
  mkdirSync(to);
  for (let i = 0; i < n_layers; i++) {
    const layer = `model.layers.${i}.`;
    for (const p of ["q", "k", "v", "o"]) shapes[`${layer}self_attn.${p}_proj.weight`] = [d, d];
    for (const p of ["gate", "up"]) shapes[`${layer}mlp.${p}_proj.weight`] = [64, d];
    shapes[`${layer}mlp.down_proj.weight`] = [d, 64];
    for (const p of ["input", "post_attention"]) shapes[`${layer}${p}_layernorm.weight`] = [d];
  }
  sparseFile(join(to, "model.safetensors"), "BF16", shapes);
  writeFileSync(join(to, "config.json"), JSON.stringify({
    ...tiny, hidden_size: d, num_attention_heads: 8, num_key_value_heads: 8, head_dim: 128, num_hidden_layers: n_layers,
    intermediate_size: 64, max_position_embeddings: 1 << 24,
  }));
  cpSync("examples/tiny/tokenizer.json", join(to, "tokenizer.json"));
}

export const launch = (executablePath) => chromium.launch({
  executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
});

// A page that reports what it should not do: errors, what the policy forbids, and requests to anybody but the server.
export async function open(browser, url, options = {}) {
  const context = options.context ?? await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(error.message));
  page.on("console", (m) => m.type() === "error" && !/ERR_|status of|WebSocket/.test(m.text()) && page.faults.push(m.text()));
  page.on("request", (r) => !/^(http:\/\/127\.0\.0\.1|data:|blob:)/.test(r.url()) && page.faults.push(r.url()));
  await page.goto(url);
  return page;
}

export const button = (page, name) => page.getByRole("button", { name, exact: true });

// Goes on with the Tab key until that has the focus.
export async function tabTo(page, selector) {
  for (let i = 0; i < 120; i++) {
    await page.keyboard.press("Tab");
    if (await page.evaluate((s) => document.activeElement.matches(s), selector)) return;
  }
  throw new Error(`the Tab key does not reach ${selector}`);
}

export async function setUp(page, sae = SAE) {
  await page.fill("#model", "tiny");
  await button(page, "Load model").click();
  await page.waitForSelector(".dot.ready");
  await page.fill("#sae", sae);
  await button(page, "Load file").click();
  await page.waitForSelector(".chip");
}
