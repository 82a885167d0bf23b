-- SPDX-License-Identifier: MIT
-- generate --compare: two texts side by side, the first difference marked.
local comparison = require "moonscope.comparison"
local fixtures = require "fixtures"
local json = require "moonscope.json"
local process = require "process"
local terminal = require "moonscope.terminal"

local PROMPT = "Once upon a time there was a small red fox named Mia."

describe("terminal.wrap", function()
  it("breaks at spaces, cuts what is too long, keeps line feeds", function()
    for _, case in ipairs {
      { "the red fox", 7, { "the red", "fox" } },
      { " the red", 80, { " the red" } },
      { "abcdefgh", 3, { "abc", "def", "gh" } },
      { "a abcdefgh b", 4, { "a", "abcd", "efgh", "b" } },
      { "one\n\ntwo", 10, { "one", "", "two" } },
      { "漢字漢字", 5, { "漢字", "漢字" } },
      { "e\u{301}e\u{301}e\u{301}", 2, { "e\u{301}e\u{301}", "e\u{301}" } },
      { "", 5, { "" } },
    } do
      assert.same(case[3], terminal.wrap(case[1], case[2]))
    end
  end)
end)

describe("comparison", function()
  it("finds where lists part", function()
    assert.is_nil(comparison.first_difference({ 1, 2 }, { 1, 2 }))
    assert.equal(2, comparison.first_difference({ 1, 2, 3 }, { 1, 3, 3 }))
    assert.equal(3, comparison.first_difference({ 1, 2, 3 }, { 1, 2 }))
    assert.equal(1, comparison.first_difference({}, { 1 }))
  end)

  local function lines(a, b, first, columns, color)
    return comparison.lines({ title = "a", pieces = a }, { title = "b", pieces = b }, first, columns, color)
  end

  it("keeps to the columns there are", function()
    local words = {}
    for i = 1, 60 do words[i] = " wörd漢" .. i end
    for _, columns in ipairs { 1, 2, 20, 49, 50, 51, 80, 133 } do
      for _, line in ipairs(lines(words, words, 7, columns, false)) do
        if not line:find "^first difference" then
          assert.is_true(terminal.width(line) <= math.max(columns, 2), line)
        end
      end
    end
  end)

  it("marks the difference, and what follows in colour on a terminal", function()
    assert.same({
      "a                       | b", "-                       | -", " no »yes                |  no »nay", "",
      'first difference: token 1, " yes" became " nay"',
    }, lines({ " no", " yes" }, { " no", " nay" }, 2, 50, false))
    assert.equal(" no \27[1;33m»yes\27[0m                |  no \27[1;33m»nay\27[0m",
      lines({ " no", " yes" }, { " no", " nay" }, 2, 50, true)[3])
    local ended = lines({ " no", " yes" }, { " no" }, 2, 50, false)
    assert.equal('first difference: token 1, " yes" became the end', ended[5])
    assert.equal("no difference", lines({ " no" }, { " no" }, nil, 50, true)[5])
  end)

  it("shows control characters and marks of the texts as they are elsewhere", function()
    local shown = lines({ "»\27[2J" }, { "»\1x" }, 1, 60, false)
    assert.equal("»»?[2J                       | »»?x", shown[3])
  end)
end)

describe("moonscope generate --compare", function()
  local function arguments(...)
    return { "generate", "--model", fixtures.model_path, "--sae", fixtures.sae_path, "--precision", "exact", "--quiet",
      "--prompt", PROMPT, "--edit", "458:add:3.85", "--compare", ... }
  end

  it("prints both, plain in a pipe", function()
    local result = process.moonscope(arguments("-n", "40"))
    assert.same({ 0, "" }, { result.code, result.err })
    assert.matches("^original +| edited\n", result.out)
    assert.truthy(result.out:find("\n»sleep all night. She felt tired. Mia  | »eat all day. She felt hungry.", 1, true))
    assert.matches('\nfirst difference: token 18, " sleep" became " eat"\n$', result.out)
    assert.falsy(result.out:find "\27")
  end)

  it("fits the terminal, in colour", function()
    local words = { "stty cols 64; exec", process.program }
    for _, word in ipairs(arguments("-n", "30")) do words[#words + 1] = "'" .. word .. "'" end
    local command = { "-qec", table.concat(words, " "), "/dev/null" }
    local out = process.run("script", command, { env = { TERM = "xterm" } }).out
    local widest = 0
    for line in out:gsub("\27%[[%d;]*m", ""):gmatch "([^\r\n]+)\r\n" do
      if not line:find "^first" then widest = math.max(widest, terminal.width(line)) end
    end
    assert.is_true(widest > 55 and widest <= 64, widest)
    assert.truthy(out:find("\27[1;33m»sleep", 1, true))
  end)

  it("has both in --json", function()
    local both = assert(json.decode(process.moonscope(arguments("-n", "20", "--json")).out))
    assert.equal(18, both.first_difference)
    assert.same(both.original.prompt_ids, both.edited.prompt_ids)
    assert.are_not.equal(both.original.ids[19], both.edited.ids[19])
    assert.equal(both.original.ids[18], both.edited.ids[18])
    assert.same({}, both.original.edits)
    assert.equal(458, both.edited.edits[1].feature)
    local same = assert(json.decode(process.moonscope(arguments("-n", "4", "--json")).out))
    assert.equal(json.null, same.first_difference)
  end)

  it("needs an edit", function()
    local result = process.moonscope { "generate", "--model", fixtures.model_path, "--prompt", "a", "--compare" }
    assert.same({ 2, "" }, { result.code, result.out })
    assert.matches("^moonscope: generate: %-%-compare: needs %-%-edit", result.err)
  end)
end)
