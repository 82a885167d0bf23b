// SPDX-License-Identifier: MIT
// Bundles the page and writes it as a C file with its three parts: node build.mjs OUT.c
import { readFile, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const here = new URL(".", import.meta.url).pathname;

async function bundled(entry) {
  const result = await build({
    absWorkingDir: here, entryPoints: [entry], bundle: true, minify: true, write: false, format: "esm",
    target: ["es2022", "safari16.4"], jsx: "automatic", jsxImportSource: "preact", legalComments: "none", logLevel: "warning",
  });
  return result.outputFiles[0].contents;
}

function array(name, bytes) {
  const lines = [];
  for (let i = 0; i < bytes.length; i += 24) lines.push(`  ${[...bytes.subarray(i, i + 24)].join(",")},`);
  return `const unsigned char ${name}[] = {\n${lines.join("\n")}\n};\nconst size_t ${name}_size = sizeof ${name};\n`;
}

const [html, js, css] = await Promise.all([
  readFile(`${here}index.html`), bundled("main.tsx"), bundled("page.css"),
]);
await writeFile(process.argv[2], `#include <stddef.h>\n\n${array("moon_page_html", html)}\n${array("moon_page_js", js)}\n${array("moon_page_css", css)}`);
