// SPDX-License-Identifier: MIT
// node compare_tokenizer.mjs MOONSCOPE: ids of generated and real texts against @huggingface/tokenizers,
// with the tiny vocabulary, and with a full one where MOONSCOPE_TEST_TOKENIZER names its folder.
import { readFileSync } from "node:fs";
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

compare(root + "examples/tiny");
const full = process.env.MOONSCOPE_TEST_TOKENIZER;
if (full) compare(full);
else console.log("# SKIP the full vocabulary: MOONSCOPE_TEST_TOKENIZER does not name a folder with a tokenizer.json");
