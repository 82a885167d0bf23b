// SPDX-License-Identifier: MIT
// The server as real clients use it: node's fetch, the openai package as it comes, ws. Starts its own
// server:  node tests/server/clients.mjs build/release/bin/moonscope
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import OpenAI from "openai";
import WebSocket from "ws";

const server = spawn(process.argv[2], ["serve", "--port", "0", "--data", "examples", "--precision", "exact"], {
  stdio: ["ignore", "pipe", "inherit"],
});
let out = "";
for await (const chunk of server.stdout) {
  out += chunk;
  if (out.includes("\n")) break;
}
const base = out.match(/http:\/\/\S+/)[0];
const prompt = "Once upon a time there was a small red fox named Mia.";
const plain = " It was a snowy day. Mia shook the cold snow from her ears. Mia did not sleep all night. She felt tired.";

async function post(path, body) {
  const answer = await fetch(base + path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return [answer.status, await answer.json()];
}

async function withFetch() {
  assert.deepEqual(await (await fetch(base + "/health")).json(), { status: "healthy", model_loaded: false });
  assert.deepEqual((await post("/load-model", { model_name: "tiny" }))[0], 200);
  const [status, body] = await post("/api/load-sae", {
    layer_idx: 3, saePath: "tiny/Moonscope-Tiny-Llama-SAE-l3.pth", activationsPath: null,
  });
  assert.equal(status, 200);
  assert.equal(body.layer_name, "model.layers.3");
}

function withCurl() {
  const text = execFileSync("curl", ["-sS", "-N", "-H", "Content-Type: application/json", base + "/v1/completions",
    "-d", JSON.stringify({ prompt, max_tokens: 4, temperature: 0, stream: true })], { encoding: "utf8" });
  assert.match(text, /^data: \{.*\}\n\n[^]*data: \[DONE\]\n\n$/);
}

async function withOpenAI() {
  const client = new OpenAI({ baseURL: base + "/v1", apiKey: "none" });
  assert.deepEqual((await client.models.list()).data.map((model) => model.id), ["tiny"]);
  const whole = await client.completions.create({ model: "tiny", prompt, temperature: 0, max_tokens: 60, stop: " Mia walked" });
  assert.equal(whole.choices[0].text, plain);
  assert.equal(whole.choices[0].finish_reason, "stop");
  assert.ok(whole.usage.total_tokens > 20);

  const chat = { model: "tiny", messages: [{ role: "user", content: "What colour is the duck?" }], temperature: 0,
    seed: 1, max_tokens: 16, logprobs: true, top_logprobs: 2 };
  const answer = await client.chat.completions.create(chat);
  assert.match(answer.choices[0].message.content, /^The duck is \w+\.$/);
  assert.equal(answer.choices[0].logprobs.content[0].top_logprobs.length, 2);
  assert.equal(answer.choices[0].logprobs.content[0].token, "The");

  let text = "", usage = null, features = 0;
  const stream = await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true },
    include_features: true });
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
    features += chunk.features?.length ?? 0;
  }
  assert.equal(text, answer.choices[0].message.content);
  assert.equal(usage.completion_tokens, answer.usage.completion_tokens);
  assert.ok(features > 3);

  const edited = await client.completions.create({ model: "tiny", prompt, temperature: 0, max_tokens: 32,
    edits: [{ layer: 3, feature: 458, op: "add", value: 3.85 }] });
  assert.match(edited.choices[0].text, /She felt hungry/);
  await assert.rejects(client.chat.completions.create({ ...chat, model: "other" }), OpenAI.NotFoundError);
  await assert.rejects(client.completions.create({ model: "tiny", prompt, temperature: -1 }), OpenAI.BadRequestError);
}

// The seed's page: it pairs original and patched by their place, and hears of patches.
async function withPatches(socket, next) {
  const features = await (await fetch(base + "/api/features?layer=3&limit=2")).json();
  assert.equal(features.total, 2048);
  const [, patch] = await post("/api/patch", { featureId: "layer_3_feature_458", name: "hungry", strength: 3.85 });
  const [, toggled] = await post(`/api/patch/${patch.id}/toggle`, {});
  assert.equal(toggled.isEnabled, false);
  const told = await next("patch_toggled");
  assert.deepEqual([told.patch_id, told.action], [patch.id, "disabled"]);
  assert.deepEqual(told.data, { patchId: patch.id, action: "disabled", strength: 3.85 });
  await fetch(`${base}/api/patch/${patch.id}`, { method: "PATCH", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ isEnabled: true }) });
  assert.deepEqual((await next("patch_updated")).updates, ["enabled=true"]);

  socket.send(JSON.stringify({ type: "inference_request", requestId: "r1", data: { text: prompt, maxTokens: 40 } }));
  socket.send('{"type":"inference_request","requestId":"r2","data":{"text":""}}');
  const result = await next("inference_result");
  const [, posted] = await post("/inference", { text: prompt, max_length: 40 });
  delete result.data.latencyMs;
  delete posted.latencyMs;
  assert.equal(result.requestId, "r1");
  assert.deepEqual(result.data, posted);
  assert.match(posted.generated_text, /She felt hungry/);
  assert.match(posted.original_text, /She felt tired/);
  assert.deepEqual(posted.patched.map((entry) => entry.token), posted.original.map((entry) => entry.token));
  assert.deepEqual((({ requestId, error }) => [requestId, error])(await next("error")), ["r2", "Text cannot be empty"]);
  assert.equal((await fetch(`${base}/patch/${patch.id}`, { method: "DELETE" })).status, 200);

  const blob = Buffer.from(await (await fetch(base + "/api/export-sae?layer_idx=3")).arrayBuffer());
  const header = JSON.parse(blob.subarray(8, 8 + Number(blob.readBigUInt64LE(0))));
  assert.deepEqual(header["encoder_linear.weight"].shape, [2048, 128]);
}

async function withWebSocket() {
  const url = base.replace("http", "ws") + "/api/ws";
  const socket = new WebSocket(url);
  const messages = [];
  socket.on("message", (data) => messages.push(JSON.parse(data)));
  const next = async (type) => {
    for (;;) {
      const at = messages.findIndex((message) => message.type === type);
      if (at >= 0) return messages.splice(at, 1)[0];
      await once(socket, "message");
    }
  };
  await next("connection_established");
  for (let i = 0; i < 50; i++) socket.send('{"type":"ping"}');
  for (let i = 0; i < 50; i++) await next("pong");
  await withPatches(socket, next);
  await post("/unload-model", {});
  let status; // "loading" while what runs is ended
  do status = (await next("model_status")).data.status;
  while (status === "loading");
  assert.equal(status, "idle");
  socket.send('{"type":"subscription","data":{"subscriptionType":"model_status","action":"unsubscribe"}}');
  await next("subscription_response");
  await post("/load-model", { model_name: "tiny" });
  for (const bad of ["{", "[]", '{"type":"frobnicate"}', '{"type":"subscription"}', '"x"']) {
    socket.send(bad);
    assert.ok((await next("error")).error);
  }
  assert.equal(messages.filter((message) => message.type === "model_status").length, 0);
  socket.close();
  await once(socket, "close");

  const big = new WebSocket(url);
  await once(big, "open");
  big.send("x".repeat((1 << 20) + 1));
  assert.ok([1009, 1006].includes((await once(big, "close"))[0])); // 1006: the rest that it sends is not read
  const foreign = new WebSocket(url, { origin: "http://evil.example" });
  const [error] = await once(foreign, "error");
  assert.match(error.message, /403/);
  assert.equal((await fetch(base + "/ws")).status, 400);
}

try {
  await withFetch();
  withCurl();
  await withOpenAI();
  await withWebSocket();
} finally {
  server.kill("SIGTERM");
}
assert.deepEqual(await once(server, "exit"), [0, null]);
console.log("all clients are served");
