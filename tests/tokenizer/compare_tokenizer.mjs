// SPDX-License-Identifier: MIT
// node compare_tokenizer.mjs MOONSCOPE: ids of generated and real texts against @huggingface/tokenizers,
// with the tiny vocabulary, with those of the family, and with a full one where MOONSCOPE_TEST_TOKENIZER names
// its folder.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { Tokenizer } from "@huggingface/tokenizers";
import { Report, ask, randomText, readJson, root } from "./common.mjs";

const [program] = process.argv.slice(2);
const N_GENERATED = 10000;

const bits = [
  " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\v", "\f", "\u0085", "\u00a0", "\u180e", "\u2028", "\u3000",
  "\ufeff", "\u200b", "\u001c", "0", "7", "12", "123", "1234", "3.14", "\u0663", "\u2167", "\uff12", "\u00bd",
  "'s", "'S", "'t", "'re", "'RE", "'ve", "'m", "'ll", "'LL", "'d", "'D", "'", "\u2019s", "don't", "We've",
  "a", "the", "The", " the", " fox", " moonscope", "_", "-", "--", "...", "!", "?!", "(", ")", "/", "\\", "#", "\u0000",
  "\u00e9", "e\u0301", "\u00df", "\u017f", "\u212a", "\u4f60\u597d", "\u65e5\u672c\u8a9e", "\ud55c", "\u0928\u092e",
  "\u{1f600}", "\u{1f469}\u200d\u{1f467}", "\u{1f1eb}\u{1f1f7}", "\u0301", "\u{e0001}",
  "\u2581", "\u2581\u2581the", " \u2581", "    ", "<s>", "</s>", "<s", " </s> ", "<unk>", "<0x0A>", "\u0000\u007f", "\u1100\u1161\u11a8", "\u212b", "\u0344",
  "q\u0323\u0307", "q\u0307\u0323", "\u0958", "\ufb1d", "\u{1d15e}", "<|im_start|>", "<|im_end|>user\n",
  "<|eot_id|>", "<|begin_of_text|>", "<|end_header_id|>", "<|eot_id", "<|", "|>", "<|eot_id|>\n", " <|eot_id|> ",
];

// The JavaScript tokenizer takes (?i:'s) for ['s, 'S]; the original, in Rust, knows that U+017F is
// an s too, and so do we.
const differsByDesign = (text) => text.includes("'\u017f");

function texts() {
  const golden = readJson(root + "tests/fixtures/tiny/golden/tokenizer.json").map(({ text }) => text);
  const lines = readFileSync(root + "tests/fixtures/tiny/eval.jsonl", "utf8").trimEnd().split("\n");
  const generated = [];
  while (generated.length < N_GENERATED) {
    const text = randomText(bits, 14);
    if (!differsByDesign(text)) generated.push(text);
  }
  return [...golden.filter((text) => !differsByDesign(text)), ...lines.map((line) => JSON.parse(line).text), ...generated];
}

function compare(folder) {
  const file = readJson(folder + "/tokenizer.json");
  const config = readJson(folder + "/tokenizer_config.json");
  const oracles = [
    [true, new Tokenizer(file, config)],
    [false, new Tokenizer({ ...file, added_tokens: [] }, config)], // no token is special to this one
  ];
  const report = new Report();
  const all = texts();
  for (const [special, oracle] of oracles) {
    const answers = ask(program, folder, all.map((text) => ({ text, special })));
    all.forEach((text, i) => {
      const { ids } = oracle.encode(text, { add_special_tokens: false });
      report.same(`${JSON.stringify(text)}, special = ${special}`, answers[i], ids);
    });
  }
  report.end(folder);
}

// A tokenizer of another form, made of one that is there, in a folder of its own.
function compareVariant(from, change) {
  const folder = mkdtempSync(tmpdir() + "/moonscope-tokenizer-");
  const file = readJson(from + "/tokenizer.json");
  change(file);
  writeFileSync(folder + "/tokenizer.json", JSON.stringify(file));
  writeFileSync(folder + "/tokenizer_config.json", readFileSync(from + "/tokenizer_config.json"));
  try {
    compare(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

// As newer files of Llama 2 and Mistral have it: a Metaspace, merges as pairs.
function asMetaspace(scheme) {
  return (file) => {
    file.normalizer = null;
    file.pre_tokenizer = { type: "Metaspace", replacement: "\u2581", prepend_scheme: scheme, split: false };
    file.model.merges = file.model.merges.map((merge) => merge.split(" "));
  };
}

// A token that goes over the border of two words: merges may then as well.
function withWordsJoined(file) {
  const add = (left, right) => {
    file.model.merges.push(`${left} ${right}`);
    file.model.vocab[left + right] ??= Object.keys(file.model.vocab).length;
  };
  add("\u2581the", "\u2581");
  add(".", "\u2581");
}

// A token that is written with a plain space: merges never make it.
function withPlainSpace(file) {
  file.model.vocab[" the"] = Object.keys(file.model.vocab).length;
}

// Qwen: form C, digits one by one, its own special tokens.
function asQwen(file) {
  file.normalizer = { type: "NFC" };
  file.pre_tokenizer.pretokenizers[0].pattern.Regex =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  file.post_processor = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false };
  ["<|im_start|>", "<|im_end|>"].forEach((content, i) => (file.added_tokens[i].content = content));
}

const sentencepiece = root + "tests/fixtures/sentencepiece";
compare(root + "examples/tiny");
compare(sentencepiece);
for (const scheme of ["first", "always", "never"]) compareVariant(sentencepiece, asMetaspace(scheme));
compareVariant(sentencepiece, withWordsJoined);
compareVariant(sentencepiece, withPlainSpace);
compareVariant(root + "examples/tiny", asQwen);
const full = process.env.MOONSCOPE_TEST_TOKENIZER;
if (full) compare(full);
else console.log("# SKIP the full vocabulary: MOONSCOPE_TEST_TOKENIZER does not name a folder with a tokenizer.json");
