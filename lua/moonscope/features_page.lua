-- SPDX-License-Identifier: MIT
---The features of a text as one page of HTML that needs nothing else: tokens shaded by activation, a token's features
---on hover and focus, any feature's places on a click. Without its script it still shows the shades.
---
---Texts from outside are escaped; the data for the script are numbers only; and the page's policy lets nothing run
---but its own script, and nothing be loaded.
local uv = require "luv"
local visible = require "moonscope.visible"

local M = {}

local LEVELS = 20 -- shades
local OVERVIEW = 12 -- features listed for the whole text

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local function escape(text) return (text:gsub("[&<>\"']", ESCAPES)) end

---A token's bytes; a line feed is named here and acts after the token.
local function token_html(bytes)
  local html, breaks = {}, 0
  for i, part in ipairs(visible.parts(bytes)) do
    if part.kind == "text" then
      html[i] = escape(part.text)
    elseif part.kind == "space" then
      html[i] = "<i class=sp> </i>"
    else
      html[i] = "<i class=ch>" .. part.text .. "</i>"
      breaks = breaks + (part.kind == "break" and 1 or 0)
    end
  end
  return table.concat(html), ("<br>"):rep(breaks)
end

---A path or a prompt on one line.
local function line_html(text)
  local html = {}
  for i, part in ipairs(visible.parts(text)) do
    local as_is = part.kind == "text" or part.kind == "space"
    html[i] = as_is and escape(part.text) or "<i class=ch>" .. part.text .. "</i>"
  end
  return table.concat(html)
end

---The largest activation of each feature, and of all, but for the first token's, which is far above all others.
local function peaks_of(tokens)
  local peaks, largest = {}, 0
  for i = 2, #tokens do
    for _, feature in ipairs(tokens[i].features) do
      peaks[feature.index] = math.max(peaks[feature.index] or 0, feature.activation)
      largest = math.max(largest, feature.activation)
    end
  end
  return peaks, largest
end

local function level(activation, scale)
  if activation <= 0 or scale <= 0 then return 0 end
  return math.floor(math.min(activation / scale, 1) * LEVELS + 0.5)
end

local function tokens_html(tokens, scale, top)
  local html = {}
  for i, token in ipairs(tokens) do
    local shown, breaks = token_html(token.token)
    local strongest = token.features[1]
    local title = {}
    for j = 1, math.min(top, #token.features) do
      title[j] = ("%d: %.2f"):format(token.features[j].index, token.features[j].activation)
    end
    html[i] = ('<span class="t s%d" role=button tabindex=0 aria-pressed=false title="%s">%s</span>%s')
      :format(level(strongest and strongest.activation or 0, scale), table.concat(title, "\n"), shown, breaks)
  end
  return table.concat(html, "<wbr>")
end

---[scale, features listed, [[position, id, [index, activation, ...]], ...]]: numbers, and nothing else.
local function data_json(tokens, scale, top)
  local rows = {}
  for i, token in ipairs(tokens) do
    local list = {}
    for j, feature in ipairs(token.features) do list[j] = ("%d,%.4g"):format(feature.index, feature.activation) end
    rows[i] = ("[%d,%d,[%s]]"):format(token.position, token.id, table.concat(list, ","))
  end
  return ("[%.6g,%d,[%s]]"):format(scale, top, table.concat(rows, ","))
end

local function overview_html(peaks, largest)
  local order, html = {}, {}
  for feature in pairs(peaks) do order[#order + 1] = feature end
  table.sort(order, function(a, b) return peaks[a] > peaks[b] or peaks[a] == peaks[b] and a < b end)
  for i = 1, math.min(OVERVIEW, #order) do
    local feature = order[i]
    html[i] = ('<li><button class="f s%d" data-feature=%d aria-pressed=false>%d <small>%.2f</small></button></li>')
      :format(level(peaks[feature], largest), feature, feature, peaks[feature])
  end
  return table.concat(html)
end

local STYLE = [[
:root { color-scheme: light dark; --paper: #fcfbf8; --card: #ffffff; --ink: #1d1c1a; --muted: #625d55;
  --line: #e2ddd3; --hot: #f59e0b; --pick: #5b9dfa; --focus: #1d4ed8; --heat: var(--hot); }
@media (prefers-color-scheme: dark) { :root { --paper: #151517; --card: #1e1e21; --ink: #f1efea; --muted: #aaa59b;
  --line: #38373a; --hot: #9c4a06; --pick: #1f5fb5; --focus: #93c5fd; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
.page { max-width: 76rem; margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem) 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .75rem; letter-spacing: -.01em; }
h2 { font-size: .8rem; font-weight: 600; color: var(--muted); margin: 0 0 .5rem; }
p { margin: 0; }
dl { display: flex; flex-wrap: wrap; gap: .25rem 1.75rem; margin: 0 0 1.75rem; font-size: .9rem; }
dl div { display: flex; gap: .5rem; min-width: 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
.columns { display: grid; grid-template-columns: minmax(0, 1fr) 20rem; gap: 2.5rem; align-items: start; }
.tokens { font: 1.12rem/2.1 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.t { display: inline-block; max-width: 100%; line-height: 1.5; padding: 0 .06em; margin-right: 1px;
  border-radius: .22em; cursor: pointer; white-space: pre-wrap; unicode-bidi: isolate;
  box-shadow: inset 0 -1px var(--line); background: var(--shade); }
.t:hover { box-shadow: inset 0 0 0 1px var(--ink); }
.t[aria-pressed=true] { box-shadow: inset 0 0 0 2px var(--ink); }
.t:focus-visible, button:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
i { font-style: normal; }
.sp { position: relative; } .sp::before { content: "\B7"; position: absolute; inset: 0;
  line-height: 1.15; text-align: center; opacity: .5; }
.ch { font-size: .72em; padding: .12em .3em; margin: 0 .1em; border: 1px solid; border-radius: .3em; }
.legend { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem 1rem; margin-top: 1.5rem; font-size: .85rem;
  color: var(--muted); }
.ramp { width: 9rem; height: .8rem; border-radius: .2rem; border: 1px solid var(--line);
  background: linear-gradient(to right, var(--card), var(--heat)); }
.picked { --heat: var(--pick); }
kbd { font: inherit; color: var(--ink); border: 1px solid var(--line); border-radius: .25em; padding: 0 .35em; }
aside { position: sticky; top: 1.5rem; background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: 1.1rem 1.1rem 1.2rem; min-height: 12rem; }
#token { font: 1.25rem/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
#where { font-size: .85rem; color: var(--muted); margin-bottom: .75rem; }
ul { list-style: none; margin: 0; padding: 0; }
#list li + li { margin-top: .3rem; }
.overview { display: flex; flex-wrap: wrap; gap: .4rem; }
section + section { margin-top: 2rem; }
button { font: inherit; color: inherit; border: 1px solid var(--line); border-radius: .4rem; cursor: pointer;
  background: var(--card); padding: .2rem .6rem; font-variant-numeric: tabular-nums; }
.f { background: linear-gradient(var(--shade), var(--shade)), var(--card); }
.f small { font-size: .85em; }
button:hover, button[aria-pressed=true] { border-color: var(--ink); }
button[aria-pressed=true] { box-shadow: inset 0 0 0 1px var(--ink); }
#list button { position: relative; display: flex; justify-content: space-between; width: 100%; overflow: hidden; }
#list span { position: relative; }
#list .bar { position: absolute; inset: 0 auto 0 0; background: var(--heat); opacity: .85; }
@media (max-width: 50rem) { .page { padding-top: 1.25rem; }
  .columns { grid-template-columns: minmax(0, 1fr); gap: 1.5rem; }
  aside { top: auto; bottom: 0; min-height: 0; max-height: 46vh; overflow: auto; border-radius: .75rem .75rem 0 0;
    margin: 0 calc(-1 * clamp(1rem, 4vw, 3rem)); padding: .9rem 1rem;
    box-shadow: 0 -8px 24px #0002; }
  .keys { display: none; } }
]]

local SCRIPT = [[
"use strict";
const [scale, listed, rows] = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const area = byId("tokens"), tokens = [...area.querySelectorAll(".t")];
const levels = LEVELS;
let picked = null, pinned = null, at = 0;

const activation = (row, feature) => {
  for (let i = 0; i < row[2].length; i += 2) if (row[2][i] === feature) return row[2][i + 1];
  return 0;
};
const level = (value, most) => value > 0 && most > 0 ? Math.round(Math.min(value / most, 1) * levels) : 0;

function shade() {
  const values = rows.map((row) => picked === null ? row[2][1] || 0 : activation(row, picked));
  const most = picked === null ? scale : Math.max(...values);
  tokens.forEach((token, i) => { token.className = "t s" + level(values[i], most); });
  document.body.classList.toggle("picked", picked !== null);
  byId("meaning").textContent = picked === null ? "strongest feature of each token, 0 to " + scale.toFixed(2)
    : "feature " + picked + ", 0 to " + most.toFixed(2);
  for (const button of document.querySelectorAll("button[data-feature]"))
    button.setAttribute("aria-pressed", String(Number(button.dataset.feature) === picked));
}

function featureItem(feature, value, most) {
  const item = document.createElement("li"), button = document.createElement("button");
  const [bar, name, number] = [1, 2, 3].map(() => document.createElement("span"));
  button.dataset.feature = feature;
  button.setAttribute("aria-pressed", String(feature === picked));
  bar.className = "bar";
  bar.style.width = 100 * Math.min(value / most, 1) + "%";
  name.textContent = feature;
  number.textContent = value.toFixed(2);
  button.append(bar, name, number);
  item.append(button);
  return item;
}

function show(i) {
  const [position, id, features] = rows[i];
  byId("token").replaceChildren(...[...tokens[i].childNodes].map((node) => node.cloneNode(true)));
  byId("where").textContent = "position " + position + ", id " + id + ", " + features.length / 2 + " features fire";
  const items = [];
  for (let j = 0; j < Math.min(features.length, 2 * listed); j += 2)
    items.push(featureItem(features[j], features[j + 1], Math.max(scale, features[1])));
  byId("list").replaceChildren(...items);
}

function pin(i) {
  pinned = pinned === i ? null : i;
  tokens.forEach((token, j) => { token.setAttribute("aria-pressed", String(j === pinned)); });
  show(i);
}

function pick(feature) {
  picked = picked === feature ? null : feature;
  shade();
}

function move(to) {
  tokens[at].tabIndex = -1;
  at = Math.min(Math.max(to, 0), tokens.length - 1);
  tokens[at].tabIndex = 0;
  tokens[at].focus();
}

function vertically(step) {
  const from = tokens[at].getBoundingClientRect();
  let best = at, near = Infinity;
  for (let i = at + step; i >= 0 && i < tokens.length; i += step) {
    const box = tokens[i].getBoundingClientRect(), down = (box.top - from.top) * step;
    if (down > 2.5 * from.height) break;
    const distance = Math.abs(box.left - from.left);
    if (down > from.height / 2 && distance < near) { best = i; near = distance; }
  }
  move(best);
}

const keys = {
  ArrowRight: () => move(at + 1), ArrowLeft: () => move(at - 1), ArrowDown: () => vertically(1),
  ArrowUp: () => vertically(-1), Home: () => move(0), End: () => move(tokens.length - 1),
  Enter: () => pin(at), " ": () => pin(at),
};
const indexOf = (event) => tokens.indexOf(event.target.closest(".t"));

area.addEventListener("keydown", (event) => {
  if (!keys[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  keys[event.key]();
});
area.addEventListener("focusin", (event) => { at = indexOf(event); show(at); });
area.addEventListener("mouseover", (event) => { const i = indexOf(event); if (i >= 0 && pinned === null) show(i); });
area.addEventListener("click", (event) => { const i = indexOf(event); if (i >= 0) pin(i); });
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-feature]");
  if (button) pick(Number(button.dataset.feature));
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (pinned !== null) pin(pinned);
  if (picked !== null) pick(picked);
});
tokens.forEach((token, i) => { token.tabIndex = i === 0 ? 0 : -1; token.removeAttribute("title"); });
show(Math.min(1, tokens.length - 1));
]]

local PAGE = [[
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'nonce-@NONCE@'; script-src 'nonce-@NONCE@'; base-uri 'none';
 form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Features per token</title>
<style nonce="@NONCE@">
@STYLE@</style>
</head>
<body>
<div class=page>
<h1>Which features fire on which token</h1>
<dl>
<div><dt>Model</dt><dd>@MODEL@</dd></div>
<div><dt>SAE</dt><dd>@SAE@</dd></div>
<div><dt>Reads</dt><dd>@HOOK@</dd></div>
<div><dt>Tokens</dt><dd>@COUNT@</dd></div>
<div><dt>Firing per token</dt><dd>@L0@</dd></div>
</dl>
<div class=columns>
<main>
<section aria-label="Tokens"><p class=tokens id=tokens>@TOKENS@</p>
<div class=legend><span class=ramp></span><span id=meaning>strongest feature of each token, 0 to @SCALE@</span>
<span class=keys><kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd> move, <kbd>Enter</kbd> holds,
<kbd>Esc</kbd> lets go</span></div></section>
<section><h2>Strongest in this text (pick one to see where it fires)</h2><ul class=overview>@OVERVIEW@</ul></section>
</main>
<aside aria-live=polite aria-label="The token's features">
<p id=token></p><p id=where>Point at a token.</p><ul id=list></ul>
</aside>
</div>
</div>
<script type="application/json" id=data>@DATA@</script>
<script nonce="@NONCE@">
@SCRIPT@</script>
</body>
</html>
]]

local function hex(bytes) return (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)) end

---Without the first token, whose number says little of the text.
local function mean_l0(tokens)
  local sum = 0
  for i = 2, #tokens do sum = sum + tokens[i].l0 end
  return #tokens > 1 and ("%.1f (first token left out)"):format(sum / (#tokens - 1)) or "none"
end

local function styles()
  local lines = { STYLE, ".s0 { --shade: transparent; }\n" }
  for i = 1, LEVELS do
    lines[#lines + 1] = (".s%d { --shade: color-mix(in srgb, var(--heat) %d%%, transparent); }\n")
      :format(i, i * 100 // LEVELS)
  end
  return table.concat(lines)
end

---@param found table  as features.of_prompt gives it, with all features of each token
---@param about {model: string, sae: string, hook: string, top: integer}  top: features listed for a token
---@return string html
function M.html(found, about)
  local peaks, scale = peaks_of(found.tokens)
  local filled = {
    NONCE = hex(assert(uv.random(16))), STYLE = styles(), SCRIPT = SCRIPT:gsub("LEVELS", LEVELS),
    MODEL = line_html(about.model), SAE = line_html(about.sae), HOOK = line_html(about.hook),
    COUNT = tostring(#found.tokens), L0 = mean_l0(found.tokens), SCALE = ("%.2f"):format(scale),
    TOKENS = tokens_html(found.tokens, scale, about.top), OVERVIEW = overview_html(peaks, scale),
    DATA = data_json(found.tokens, scale, about.top),
  }
  return (PAGE:gsub("@(%u%d?%u*)@", filled))
end

return M
