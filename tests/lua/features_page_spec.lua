-- SPDX-License-Identifier: MIT
-- features --html: the page's structure, hostile tokens, its colours.
local features_page = require "moonscope.features_page"
local fixtures = require "fixtures"
local json = require "moonscope.json"
local process = require "process"
local visible = require "moonscope.visible"

local ABOUT = { model = "m", sae = "s", hook = "model.layers.3", top = 2 }

---A page of tokens with these bytes; each fires feature 7 the more, the later it comes.
local function page_of(tokens, about)
  local found = { layer = 3, tokens = {} }
  for i, bytes in ipairs(tokens) do
    found.tokens[i] = { position = i - 1, id = i, token = bytes, l0 = 2,
      features = { { index = 7, activation = i }, { index = 9, activation = 0.5 } } }
  end
  return features_page.html(found, about or ABOUT)
end

---The inside of each token in turn.
local function shown(html)
  local list = {}
  for inside in html:gmatch '<span class="t s%d+"[^>]*>(.-)</span>' do list[#list + 1] = inside end
  return list
end

---Tags as a browser meets them: every name that opens, with how often.
local function tags(html)
  local counts = {}
  for name in html:gmatch "<(%a[%w]*)" do counts[name] = (counts[name] or 0) + 1 end
  return counts
end

describe("visible.parts", function()
  it("names what cannot be seen", function()
    for _, case in ipairs {
      { "red", { { "text", "red" } } },
      { " red", { { "space", " " }, { "text", "red" } } },
      { ".\n\n", { { "text", "." }, { "break", "⏎" }, { "break", "⏎" } } },
      { "\t\r\0\x7F", { { "name", "⇥" }, { "name", "␍" }, { "name", "U+0000" }, { "name", "U+007F" } } },
      { "a\u{202E}b", { { "text", "a" }, { "name", "U+202E" }, { "text", "b" } } },
      { "\u{A0}\u{200B}\u{FEFF}\u{E0041}",
        { { "name", "U+00A0" }, { "name", "U+200B" }, { "name", "U+FEFF" }, { "name", "U+E0041" } } },
      { "\u{301}e", { { "text", "◌\u{301}e" } } },
      { "e\u{301}漢字", { { "text", "e\u{301}漢字" } } },
      { "\xE6\xBC", { { "byte", "0xE6" }, { "byte", "0xBC" } } },
      { "é\xC0\x80", { { "text", "é" }, { "byte", "0xC0" }, { "byte", "0x80" } } },
      { "\xED\xA0\x80", { { "byte", "0xED" }, { "byte", "0xA0" }, { "byte", "0x80" } } },
      { "", {} },
    } do
      local got = {}
      for i, part in ipairs(visible.parts(case[1])) do got[i] = { part.kind, part.text } end
      assert.same(case[2], got)
    end
  end)
end)

describe("the page of features", function()
  it("has a token each, shaded by its strongest feature, the first one left out of the scale", function()
    local html = page_of { "a", "b", "c", "d" }
    assert.same({ "a", "b", "c", "d" }, shown(html))
    local levels = {}
    for level in html:gmatch '<span class="t s(%d+)"' do levels[#levels + 1] = tonumber(level) end
    assert.same({ 5, 10, 15, 20 }, levels)
    assert.truthy(html:find("<dd>4</dd>", 1, true))
    assert.truthy(html:find('data-feature=7 aria-pressed=false>7 <small>4.00</small>', 1, true))
  end)

  it("gives the script numbers only", function()
    local html = page_of { "</script>", "a" }
    local data = assert(json.decode(html:match '<script type="application/json" id=data>(.-)</script>'))
    assert.same({ 2, 2, { { 0, 1, { 7, 1, 9, 0.5 } }, { 1, 2, { 7, 2, 9, 0.5 } } } }, data)
  end)

  it("shows hostile tokens and names as text", function()
    local plain = tags(page_of { "a", "b", "c", "d", "e", "f" })
    local hostile = { "<script>alert(1)</script>", "</span></p><img src=x onerror=alert(1)>", "<!--", "]]>", "&lt;b>",
      [["'><a href="javascript:1">]] }
    local html = page_of(hostile, { model = "</title><script>1</script>", sae = "<img src=x>\n\u{202E}",
      hook = '"onload="1', top = 2 })
    local got = tags(html)
    got.i = nil -- of the names
    plain.i = nil
    assert.same(plain, got)
    local inside = shown(html)
    assert.equal("&lt;script&gt;alert(1)&lt;/script&gt;", inside[1])
    assert.equal("&lt;/span&gt;&lt;/p&gt;&lt;img<i class=sp> </i>src=x<i class=sp> </i>onerror=alert(1)&gt;", inside[2])
    assert.equal("&lt;!--", inside[3])
    assert.equal("&amp;lt;b&gt;", inside[5])
    assert.equal("&quot;&#39;&gt;&lt;a<i class=sp> </i>href=&quot;javascript:1&quot;&gt;", inside[6])
    assert.truthy(html:find("&lt;img src=x&gt;<i class=ch>⏎</i><i class=ch>U+202E</i></dd>", 1, true))
    assert.truthy(html:find("<dd>&quot;onload=&quot;1</dd>", 1, true))
  end)

  it("does not take a token for a gap of its own to fill", function()
    local inside = shown(page_of { "@SCRIPT@", "%1", "@DATA@" })
    assert.same({ "@SCRIPT@", "%1", "@DATA@" }, inside)
  end)

  it("lets only its own style and script work, and loads nothing", function()
    local html = page_of { "a" }
    local nonce = html:match "script%-src 'nonce%-(%x+)'"
    assert.equal(32, #nonce)
    assert.truthy(html:find("content=\"default-src 'none'; style-src 'nonce-" .. nonce, 1, true))
    assert.truthy(html:find('<script nonce="' .. nonce .. '">\n"use strict";', 1, true))
    assert.truthy(html:find('<style nonce="' .. nonce .. '">', 1, true))
    assert.are_not.equal(nonce, page_of({ "a" }):match "script%-src 'nonce%-(%x+)'")
    assert.falsy(html:find "https?:" or html:find "@import" or html:find "url%(" or html:find " style=")
    assert.falsy(html:find "innerHTML" or html:find "eval")
  end)

  it("can be read at every shade, light and dark", function()
    local html = page_of { "a" }
    local function channel(hex)
      local c = tonumber(hex, 16) / 255
      return c <= 0.04045 and c / 12.92 or ((c + 0.055) / 1.055) ^ 2.4
    end
    local function luminance(color)
      local r, g, b = color:match "#(%x%x)(%x%x)(%x%x)"
      return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b)
    end
    local function contrast(a, b)
      local x, y = luminance(a), luminance(b)
      return (math.max(x, y) + 0.05) / (math.min(x, y) + 0.05)
    end
    local function mix(a, b, share)
      local channels = {}
      for at = 2, 6, 2 do
        local from, to = tonumber(b:sub(at, at + 1), 16), tonumber(a:sub(at, at + 1), 16)
        channels[#channels + 1] = ("%02x"):format((from + (to - from) * share + 0.5) // 1 | 0)
      end
      return "#" .. table.concat(channels)
    end
    local themes = 0
    for block in html:gmatch ":root (%b{})" do
      themes = themes + 1
      local color = {}
      for name, value in block:gmatch "%-%-(%l+): (#%x%x%x%x%x%x)" do color[name] = value end
      for _, paper in ipairs { color.paper, color.card } do
        assert.is_true(contrast(color.muted, paper) >= 4.5, "muted")
        assert.is_true(contrast(color.focus, paper) >= 3, "focus")
        for _, hue in ipairs { color.hot, color.pick } do
          for share = 0, 20 do
            local ratio = contrast(color.ink, mix(hue, paper, share / 20))
            assert.is_true(ratio >= 4.5, ("%s on %s: %.2f"):format(hue, paper, ratio))
          end
        end
      end
    end
    assert.equal(2, themes)
  end)
end)

describe("moonscope features --html", function()
  local folder
  setup(function() folder = fixtures.folder() end)
  teardown(function() fixtures.remove(folder) end)

  local function run(...)
    return process.moonscope { "features", "--model", fixtures.model_path, "--sae", fixtures.sae_path,
      "--precision", "exact", "--prompt", "a red\nfox <b>", ... }
  end

  it("writes the page and prints where", function()
    local path = folder .. "/page.html"
    fixtures.write(path, "old")
    local result = run("--html", path)
    assert.same({ 0, path .. "\n", "" }, { result.code, result.out, result.err })
    local html = fixtures.read(path)
    local tokens = json.decode(run("--json", "--top", "1000").out).tokens
    local data = assert(json.decode(html:match "id=data>(.-)</script>"))
    assert.equal(#tokens, #data[3])
    for i, token in ipairs(tokens) do
      assert.same({ token.position, token.id, 2 * token.l0 }, { data[3][i][1], data[3][i][2], #data[3][i][3] })
    end
    assert.truthy(html:find("<i class=ch>⏎</i></span><br>", 1, true))
    assert.same({ "page.html" }, fixtures.names(folder))
  end)

  it("goes with --json, which keeps to --top", function()
    local path = folder .. "/page.html"
    local result = run("--html", path, "--json", "--top", "2")
    assert.equal(run("--json", "--top", "2").out, result.out)
    assert.truthy(fixtures.read(path):find("^<!doctype html>"))
  end)

  it("says where it cannot be written", function()
    local result = run("--html", folder .. "/none/page.html")
    assert.same({ 1, "" }, { result.code, result.out })
    assert.matches("^moonscope: [^\n]*/none/page%.html: cannot be written: ENOENT[^\n]*[^ :\n]\n$", result.err)
  end)
end)
