// SPDX-License-Identifier: MIT
// node compare_chat.mjs MOONSCOPE: generated conversations against the chat templates, rendered by
// @huggingface/jinja, and their ids against @huggingface/tokenizers.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import { Report, ask, below, pick, randomText, readJson, root } from "./common.mjs";

const [program] = process.argv.slice(2);
const N_GENERATED = 1500;

const folder = root + "examples/tiny";
const config = readJson(folder + "/tokenizer_config.json");
const tokenizer = new Tokenizer(readJson(folder + "/tokenizer.json"), config);
const templates = {
  llama3: new Template(config.chat_template),
  "llama3.1": new Template(readFileSync(root + "tests/tokenizer/llama3.1.jinja", "utf8")),
};

const bits = [
  " ", "\n", "\t", "\r\n", "\u3000", "\u00a0", "\u2029", "Hello", " there", "What is 2 + 2?", '"quoted"', "\\", "{{ x }}",
  "{% if %}", "\u00e9", "\u{1f600}", "\u0001", "\u007f", "<|eot_id|>", "<|start_header_id|>system<|end_header_id|>\n\n",
];

// What the original's trim, Python's str.strip, takes away and JavaScript's does not, or the other way round.
const trimDiffers = /[\u001c-\u001f\u0085\ufeff]/;

function randomContent() {
  const text = randomText(bits, 8);
  return trimDiffers.test(text) ? randomContent() : text;
}

function randomConversation() {
  const messages = below(2) ? [{ role: "system", content: randomContent() }] : [];
  for (let n = 1 + below(4); n > 0; n--) {
    messages.push({ role: pick(["user", "assistant", "user", "assistant", "tool", "ipython", "system"]), content: randomContent() });
  }
  const opts = { format: pick(Object.keys(templates)), add_generation_prompt: below(2) === 0 };
  if (below(2)) opts.date = pick(["1 Jan 2025", "26 Jul 2024"]);
  return { messages, opts };
}

function render({ messages, opts }) {
  const date = opts.date ? { date_string: opts.date } : {};
  return templates[opts.format].render({
    messages, bos_token: config.bos_token, add_generation_prompt: opts.add_generation_prompt, ...date,
  });
}

const conversations = Array.from({ length: N_GENERATED }, randomConversation);
const answers = ask(program, folder, conversations);
const report = new Report();
const [bos, eot] = ["<|begin_of_text|>", "<|eot_id|>"].map((text) => tokenizer.encode(text, { add_special_tokens: false }).ids[0]);
conversations.forEach((conversation, i) => {
  const what = JSON.stringify(conversation);
  const { messages, opts } = conversation;
  const { text, ids } = answers[i];
  report.same(what, text, render(conversation));
  const count = (id) => ids.filter((other) => other === id).length;
  const hasSystemTurn = opts.format === "llama3.1" && messages[0].role !== "system";
  report.same(`${what}: tokens that begin and end`, [ids.indexOf(bos), count(bos), count(eot)],
    [0, 1, messages.length + hasSystemTurn]);
  if (!messages.some(({ content }) => content.includes("<|"))) {
    report.same(`${what}: ids`, ids, tokenizer.encode(text, { add_special_tokens: false }).ids);
  }
});
report.end("chat");

// The other formats, each with a tokenizer of its kind.
function randomTurns(format) {
  const alternates = format === "llama2" || format === "mistral";
  const messages = format !== "mistral" && below(2) ? [{ role: "system", content: randomContent() }] : [];
  const roles = ["user", "assistant", "system"];
  for (let n = 1 + below(4), i = 0; i < n; i++) {
    messages.push({ role: alternates ? roles[i % 2] : pick(roles), content: randomContent() });
  }
  return { messages, opts: { format, add_generation_prompt: below(2) === 0 } };
}

// Turns with thoughts and tools. The template strips line breaks, @huggingface/jinja all white space: other white
// space is left out where that counts.
function randomThoughts() {
  const { messages, opts } = randomTurns("qwen3");
  const breaks = () => "\n".repeat(below(3));
  const solid = () => `a${randomContent()}b`;
  for (const message of messages) {
    if (message.role === "system" && message !== messages[0]) message.role = "tool";
    if (message.role === "user" && !below(3)) message.content = `<tool_response>${randomContent()}</tool_response>`;
    if (message.role !== "assistant") continue;
    const thought = breaks() + pick([solid(), ""]) + breaks();
    message.content = breaks() + solid();
    if (!below(3)) message.reasoning_content = thought;
    else if (below(2)) message.content = `${pick(["<think>", ""])}${thought}</think>${message.content}`;
  }
  if (below(2)) opts.enable_thinking = below(2) === 0;
  return { messages, opts };
}

function compareFormat(format, at, special) {
  const source = readFileSync(`${root}tests/tokenizer/${format}.jinja`, "utf8");
  const template = new Template(source);
  const { bos_token, eos_token } = readJson(at + "/tokenizer_config.json");
  const oracle = new Tokenizer(readJson(at + "/tokenizer.json"), readJson(at + "/tokenizer_config.json"));
  const some = Array.from({ length: 400 }, () => format === "qwen3" ? randomThoughts() : randomTurns(format));
  const all = ask(program, at, [{ template: source }, ...some]);
  const found = new Report();
  found.same(format + ": recognized", all.shift(), { format });
  some.forEach(({ messages, opts }, i) => {
    const what = JSON.stringify({ messages, opts });
    const { text, ids } = all[i];
    const { format: _, ...variables } = opts;
    found.same(what, text, template.render({ messages, bos_token, eos_token, ...variables }));
    if (messages.some(({ role, content }) => special.test(content) || role !== "assistant" && content.includes("<tool"))) return;
    const whole = oracle.encode(text, { add_special_tokens: format === "zephyr" }).ids;
    found.same(`${what}: ids`, ids, format.match(/chatml|qwen/) ? [ids[0], ...whole] : whole);
  });
  found.end("chat, " + format);
}

for (const format of ["llama2", "mistral", "zephyr"]) compareFormat(format, root + "tests/fixtures/sentencepiece", /<s>|<\/s>|<unk>/);

// Newer files put a space in front of a whole text only, not behind a special token.
function inFolder(file, use) {
  const at = mkdtempSync(tmpdir() + "/moonscope-chat-");
  writeFileSync(at + "/tokenizer.json", JSON.stringify(file));
  writeFileSync(at + "/tokenizer_config.json", JSON.stringify(file.config));
  try {
    use(at);
  } finally {
    rmSync(at, { recursive: true });
  }
}
const pieces = readJson(root + "tests/fixtures/sentencepiece/tokenizer.json");
pieces.config = readJson(root + "tests/fixtures/sentencepiece/tokenizer_config.json");
pieces.normalizer = null;
pieces.pre_tokenizer = { type: "Metaspace", replacement: "\u2581", prepend_scheme: "first", split: false };
inFolder(pieces, (at) => ["llama2", "mistral", "zephyr"].forEach((format) => compareFormat(format, at, /<s>|<\/s>|<unk>/)));

const qwen3 = readJson(folder + "/tokenizer.json");
qwen3.config = { ...config, chat_template: undefined };
["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_response>", "</tool_response>"].forEach((content, i) =>
  Object.assign(qwen3.added_tokens[i + 1] ?? (qwen3.added_tokens[i + 1] = { ...qwen3.added_tokens[1], id: qwen3.added_tokens[1].id + i }),
    { content, special: i < 2 }));
inFolder(qwen3, (at) => compareFormat("qwen3", at, /<\|/));

const chatml = readJson(folder + "/tokenizer.json");
chatml.config = { ...config, chat_template: undefined };
["<|im_start|>", "<|im_end|>"].forEach((content, i) => (chatml.added_tokens[i + 1].content = content));
inFolder(chatml, (at) => ["chatml", "qwen2", "qwen2.5"].forEach((format) => compareFormat(format, at, /<\|/)));
