-- SPDX-License-Identifier: MIT
local process = require "process"

---The program's answer to `tokenize --model examples/tiny ...`.
local function tokenize(...)
  local result = process.moonscope { "tokenize", "--model", "examples/tiny", ... }
  assert.same({ code = 0, err = "" }, { code = result.code, err = result.err })
  return result.out
end

describe("moonscope tokenize", function()
  it("shows ids and pieces", function()
    assert.equal('    446  "The"\n    466  " red"\n    198  "\\n"\n   1279  "<|eot_id|>"\n',
      tokenize "The red\n<|eot_id|>")
    assert.equal("", tokenize "")
  end)

  it("puts BOS in front and takes special tokens as text if asked", function()
    assert.equal('   1275  "<|begin_of_text|>"\n     64  "a"\n', tokenize("--bos", "a"))
    assert.equal('     27  "<"\n     91  "|"\n', tokenize("--no-special", "<|eot_id|>"):sub(1, 26))
  end)

  it("prints JSON", function()
    assert.equal('{"ids":[1275,64,1279],"tokens":["<|begin_of_text|>","a","<|eot_id|>"]}\n',
      tokenize("--json", "--bos", "a<|eot_id|>"))
    assert.equal('{"ids":[],"tokens":[]}\n', tokenize("--json", ""))
    assert.equal('{"ids":[187],"tokens":["\u{FFFD}"]}\n', tokenize("--json", "\xff"))
  end)

  it("never sends a control character to the terminal", function()
    local shown = tokenize "a\27[2J\127\u{9b}x"
    assert.is_nil(shown:find "[\0-\9\11-\31\127]")
    assert.is_nil(shown:find "\xC2[\x80-\x9F]")
  end)

  it("fails with one line", function()
    local result = process.moonscope { "tokenize", "--model", "/nowhere", "a" }
    assert.same({ code = 1, out = "", err = "moonscope: /nowhere/tokenizer.json: No such file or directory\n" },
      { code = result.code, out = result.out, err = result.err })
    assert.equal(2, process.moonscope({ "tokenize", "a" }).code)
  end)
end)
