// SPDX-License-Identifier: MIT
// How fast the page is, with the tiny model: node tests/ui/figures.mjs MOONSCOPE CHROMIUM; page.mjs asserts the same
// with wide limits.
import { gzipSync } from "node:zlib";
import { launch, open, serve, setUp } from "./browser.mjs";

const N = 100;

// From a slider's release to another frame with new probabilities, in milliseconds.
function release(page, value) {
  return page.evaluate((value) => new Promise((resolve) => {
    const start = performance.now(), slider = document.querySelector("input[type=range]");
    const seen = new MutationObserver(() => {
      seen.disconnect();
      requestAnimationFrame(() => resolve(performance.now() - start));
    });
    seen.observe(document.querySelector(".next tbody"), { subtree: true, childList: true, characterData: true, attributes: true });
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    slider.dispatchEvent(new Event("change", { bubbles: true }));
  }), String(value));
}

export async function figures(browser, url) {
  const page = await open(browser, `${url}/#/steer?${new URLSearchParams({ text: "Once upon a time", pin: "3.458~add~4~1" })}`);
  await page.waitForSelector(".next tbody tr");
  const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
  const waits = [];
  for (let i = 0; i < N; i++) waits.push(await release(page, -18 + 0.35 * i));
  await page.context().close();
  waits.sort((a, b) => a - b);
  let bundle = 0;
  for (const part of ["/", "/page.js", "/page.css"]) {
    bundle += gzipSync(Buffer.from(await (await fetch(url + part)).arrayBuffer()), { level: 9 }).length;
  }
  return { paint, median: waits[N / 2], p95: waits[Math.ceil(0.95 * N) - 1], bundle };
}

export const told = (f) => `first paint ${f.paint.toFixed(0)} ms (300); slider's release to probabilities: median ${f.median.toFixed(0)} ms, `
  + `p95 ${f.p95.toFixed(0)} ms (400), ${N} times; bundle ${(f.bundle / 1000).toFixed(1)} kB gzip (120)`;

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const [program, chromium] = process.argv.slice(2);
  const browser = await launch(chromium), server = await serve(program);
  const page = await open(browser, server.url);
  await setUp(page);
  for (let i = 0; i < 3; i++) console.log(told(await figures(browser, server.url)));
  await browser.close();
  await server.stop();
}
