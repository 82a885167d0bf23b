-- SPDX-License-Identifier: MIT
-- What the prompt prints, completes and explains, asked without a terminal.
local complete = require("moonscope.repl.completion").complete
local fixtures = require "fixtures"
local help = require "moonscope.help"
local ms = require "moonscope"
local show = require("moonscope.repl.show").text

describe("a value at the prompt", function()
  it("is shown as it is, unless it is a table", function()
    local object = setmetatable({}, { __tostring = function() return "an object" end })
    assert.same({ "a\tb", "nil", "1.5", "an object" }, { show "a\tb", show(nil), show(1.5), show(object) })
    assert.equal(tostring(ms.zeros(2)), show(ms.zeros(2)))
  end)

  it("that is a table shows its entries, what is in those in short", function()
    assert.equal("{}", show {})
    assert.equal('{ 1, "two\\n", ["a b"] = { 1, y = {...}, z = {} }, x = true }',
      show { 1, "two\n", x = true, ["a b"] = { 1, y = { 2 }, z = {} } })
    assert.equal("{ f32 [2] cpu }", show { ms.zeros(2) })
    assert.equal('{ { 1, 2, 3, 4, 5, 6, ... 1 more }, [2.5] = "\\x1B[0m" }',
      show { { 1, 2, 3, 4, 5, 6, 7 }, [2.5] = "\27[0m" })
  end)

  it("that is a long table is cut, and says by how much", function()
    local long = {}
    for i = 1, 25 do long[i] = i end
    assert.equal("{ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, ... 5 more }", show(long))
    local text = show { name = ("x"):rep(90), other = ("ž"):rep(60) }
    assert.equal('{\n  name = "' .. ("x"):rep(69) .. '"... (90 bytes),\n  other = "' .. ("ž"):rep(34)
      .. '"... (120 bytes)\n}', text)
  end)

  it("may hold itself", function()
    local loop = {}
    loop.self = loop
    assert.equal("{ self = { self = {...} } }", show(loop))
  end)
end)

describe("completion", function()
  setup(function() _G.ms = ms end)
  teardown(function() _G.ms, _G.given = nil, nil end)

  it("inserts what is certain", function()
    _G.given = { alpha = { beta_1 = 1, beta_2 = 2, run = function() end }, text = "x" }
    _G.given["key with space"] = { inner = 1 }
    for before, insert in pairs {
      ["{ms.zer"] = "os",
      ["ms.zer"] = "os", ["x = ms.load_s"] = "ae", ["hel"] = "p", ["fun"] = "ction", ["whi"] = "le",
      ["math.flo"] = "or",
      ["given.al"] = "pha", ["given.alpha.be"] = "ta_", ["given.alpha:r"] = "un",
      ["given.text:for"] = "mat",
      ["given['key with space'].in"] = "ner", ["given['key"] = " with space']", ['given["key'] = ' with space"]',
      ["f(given.alpha.be"] = "ta_", ["a..given.al"] = "pha", ["'a'..given.al"] = "pha", ["\"it's\", given.al"] = "pha",
      ["ms.open('examples/ti"] = "ny/", ["ms.open(\"examples/tiny/con"] = "fig.json\"", ["   "] = "\t", [""] = "\t",
      ["print('it\\'s', 'README."] = "md'",
    } do
      assert.same({ before, insert }, { before, (complete(before, 80)) })
    end
  end)

  it("offers nothing where nothing is known", function()
    for _, before in ipairs {
      "nothing.at.all", "given.text.al", "f(x).al", "-- ms.zer", "12.", "given:al", "given.alpha.run.", "ms.nonesuch",
      "0x",      "'no/such/file", "given['nothing",
    } do
      assert.same({ before, nil }, { before, (complete(before, 80)) })
      assert.is_nil((select(2, complete(before, 80))), before)
    end
  end)

  it("lists the rest in columns, without what is private", function()
    assert.same({ nil, "load_model      load_sae        load_tokenizer" }, { complete("ms.load_", 80) })
    assert.same({ nil, "load_model\nload_sae\nload_tokenizer" }, { complete("ms.load_", 20) })
    _G.given = { _hidden = 1, b = 2, c = 3 }
    assert.same({ nil, "b  c" }, { complete("given.", 80) })
    assert.equal("idden", (complete("given._h", 80)))
  end)

  it("knows the methods and fields of objects", function()
    local model, sae = fixtures.load()
    _G.given = { model = model, sae = sae, t = ms.zeros(1) }
    assert.equal("erate", (complete("given.model:gen", 80)))
    assert.equal("ayers", (complete("given.model.config.n_l", 80)))
    local _, list = complete("given.sae.d", 80)
    assert.equal("d_model    d_sae      decode     device     direction  dtype", list)
    _, list = complete("given.sae:d", 80) -- no fields
    assert.equal("decode     device     direction  dtype", list)
    sae:close()
    model:close()
    _G.given = nil
  end)

  it("survives an __index that fails or never returns", function()
    _G.given = setmetatable({}, { __index = function(_, key)
      if key == "broken" then error "broken" end
      while key == "endless" do end
      return { found = 1 }
    end })
    assert.is_nil((complete("given.broken.x", 80)))
    assert.is_nil((complete("given.endless.x", 80)))
    assert.equal("und", (complete("given.other.fo", 80)))
  end)
end)

describe("help", function()
  local function assert_starts(text, start)
    assert.equal(start, text:sub(1, #start))
  end

  it("tells what there is", function()
    assert.equal(help.text(), tostring(help))
    assert.equal(help.text(), help.text(help))
    for _, name in ipairs { "ms", "json", "loop", "Tensor", "Llama", "Edit" } do
      assert.truthy(help.text():find("\n  " .. name .. " ", 1, true), name)
    end
  end)

  it("explains a function, a method, an object, a type and a module", function()
    local tensor, json = ms.zeros(1), require "moonscope.json"
    assert_starts(help.text(ms.full), "ms.full(shape, value, options)\n  A shape filled with one number.\n  shape: ")
    assert_starts(help.text(tensor.topk), "Tensor:topk(k)\n  The k largest")
    assert.truthy(help.text(tensor.topk):find("values: moonscope.Tensor; indices: moonscope.Tensor (i64)", 1, true))
    assert_starts(help.text(json.array), "json.array(t)\n")
    for _, x in ipairs { tensor, "Tensor", "moonscope.Tensor" } do assert_starts(help.text(x), "moonscope.Tensor\n") end
    for _, x in ipairs { json, "json", "moonscope.json" } do
      assert_starts(help.text(x), 'json = require "moonscope.json"\n')
    end
    assert_starts(help.text(ms), 'ms = require "moonscope"\n')
    assert.truthy(help.text(ms):find("\n  ms.load_sae(name, opts) ", 1, true))
  end)

  it("explains names, and finds words", function()
    for _, name in ipairs { "Tensor:topk", "Tensor.topk", "topk", "Tensor:topk(k)" } do
      assert_starts(help.text(name), "Tensor:topk(k)\n")
    end
    local several = help.text "close"
    assert.truthy(several:find("  Tensor:close() ", 1, true) and several:find("  Sae:close() ", 1, true))
    assert.truthy(help.text("euclidean"):find("Tensor:norm(dim)", 1, true))
  end)

  it("says what it does not know", function()
    assert.equal('nothing is known of "nonesuch"; help() tells what there is', help.text "nonesuch")
    assert.equal("nothing is known of this function; help() tells what there is", help.text(function() end))
    assert.equal("nothing is known of nil; help() tells what there is", help.text(nil))
    assert.equal("nothing is known of this number; help() tells what there is", help.text(4))
  end)

  it("keeps to lines of 100 characters", function()
    for _, x in ipairs { help, ms, ms.load_sae, "Llama:generate", "Edit", "Tensor" } do
      for line in help.text(x):gmatch "[^\n]+" do assert.is_true(utf8.len(line) <= 100, line) end
    end
  end)
end)
