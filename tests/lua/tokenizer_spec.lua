-- SPDX-License-Identifier: MIT
local fixtures = require "fixtures"
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local ms = require "moonscope"

local FOLDER = "examples/tiny"

describe("ms.load_tokenizer", function()
  it("takes a folder or a file", function()
    for _, path in ipairs { FOLDER, FOLDER .. "/tokenizer.json" } do
      local tokenizer <close> = assert(ms.load_tokenizer(path))
      assert.equal(1280, tokenizer:n_vocab())
      assert.equal(1275, tokenizer:bos_id())
      assert.matches("<|start_header_id|>", tokenizer.chat_template, 1, true)
      assert.equal("moonscope.Tokenizer 1280 tokens", tostring(tokenizer))
    end
  end)

  it("tells what is wrong with a file", function()
    local tokenizer, message, code = ms.load_tokenizer "/nowhere"
    assert.same({ nil, "/nowhere/tokenizer.json: No such file or directory", "ENOENT" }, { tokenizer, message, code })
    tokenizer, message, code = ms.load_tokenizer "examples/tiny/tokenizer_config.json"
    assert.same({ nil, "EUNSUPPORTED" }, { tokenizer, code })
    assert.equal("examples/tiny/tokenizer_config.json: model: null, expected BPE (as Llama has it)",
      message)
  end)

  it("refuses a broken tokenizer_config.json, and does without one", function()
    local folder = fixtures.folder()
    fixtures.write(folder .. "/tokenizer.json", fixtures.read(FOLDER .. "/tokenizer.json"))
    local tokenizer = assert(ms.load_tokenizer(folder))
    assert.is_nil(tokenizer.chat_template)
    local ok, message = pcall(tokenizer.chat, tokenizer, { { role = "user", content = "Hi" } })
    assert.is_false(ok)
    assert.matches("^chat: the tokenizer has no chat template: give tokenizer:chat a format, one of ", message)
    assert.truthy(tokenizer:chat({ { role = "user", content = "Hi" } }, { format = "llama3" }))
    tokenizer:close()

    fixtures.write(folder .. "/tokenizer_config.json", "{")
    local none, why, code = ms.load_tokenizer(folder)
    assert.same({ nil, "EFORMAT" }, { none, code })
    assert.equal(folder .. "/tokenizer_config.json: json: Expected object key string but found T_END at character 2",
      why)
    fixtures.remove(folder)
  end)
end)

describe("a tokenizer", function()
  local tokenizer

  setup(function() tokenizer = assert(ms.load_tokenizer(FOLDER)) end)
  teardown(function() tokenizer:close() end)

  it("gives the golden ids, and the text back", function()
    local cases = assert(json.read "tests/fixtures/tiny/golden/tokenizer.json")
    assert.equal(137, #cases)
    for _, case in ipairs(cases) do
      assert.same(case.ids, tokenizer:encode(case.text))
      assert.equal(case.text, tokenizer:decode(case.ids))
    end
  end)

  it("gives the golden ids of the held-out text", function()
    local golden <close> = assert(ms.open "tests/fixtures/tiny/golden/golden.safetensors")
    local lengths, all = golden:tensor("eval_lengths"):totable(), golden:tensor("eval_ids"):totable()
    local document, start = 0, 0
    for line in io.lines "tests/fixtures/tiny/eval.jsonl" do
      document = document + 1
      local ids = tokenizer:encode(json.decode(line).text, { bos = true })
      assert.same(table.move(all, start + 1, start + lengths[document], 1, {}), ids)
      start = start + lengths[document]
    end
    assert.same({ 119, #all }, { document, start })
  end)

  it("puts BOS in front and takes special tokens as text if asked", function()
    assert.same({ 1275, 64 }, tokenizer:encode("a", { bos = true }))
    assert.same({ 1279 }, tokenizer:encode "<|eot_id|>")
    local ids = tokenizer:encode("<|eot_id|>", { special = false })
    assert.same({ 27, 91, 68, 330, 62, 322, 91, 29 }, ids)
    assert.equal("<|eot_id|>", tokenizer:decode(ids))
    assert.has_error(function() tokenizer:encode("a", { add_bos = true }) end)
    assert.has_error(function() tokenizer:encode() end)
  end)

  it("lets others run while it encodes a long text", function()
    local text = ("The red fox was hungry.<|eot_id|> "):rep(20000)
    local ids = tokenizer:encode(text, { offsets = true }) -- which is done at once
    local turns = 0
    loop.run(function()
      local over
      loop.spawn(function()
        while not over do
          turns = turns + 1
          loop.sleep(0)
        end
      end)
      assert.same(ids, tokenizer:encode(text))
      over = true
    end)
    assert.is_true(turns > 1, turns)
    local plain = tokenizer:encode(text, { special = false, bos = true })
    assert.same({ 1275, false }, { plain[1], #plain == #ids + 1 })
  end)

  it("tells where each token comes from", function()
    local text = "The é\xff<|eot_id|> x"
    local ids, offsets = tokenizer:encode(text, { bos = true, offsets = true })
    assert.equal(#ids, #offsets)
    assert.same({ 1, 0 }, offsets[1])
    for i = 2, #ids do
      assert.equal(tokenizer:token(ids[i]), text:sub(offsets[i][1], offsets[i][2]))
    end
    assert.equal(#text, offsets[#ids][2])
  end)

  it("knows its tokens", function()
    assert.equal(" moonscope", tokenizer:token(1274))
    assert.equal(1274, tokenizer:id " moonscope")
    assert.equal(1279, tokenizer:id "<|eot_id|>")
    assert.is_nil(tokenizer:id "<|nothing|>")
    assert.is_true(tokenizer:is_special(1275))
    assert.is_false(tokenizer:is_special(1274))
  end)

  it("leaves special tokens out if asked", function()
    local ids = tokenizer:encode("a<|eot_id|>b", { bos = true })
    assert.equal("<|begin_of_text|>a<|eot_id|>b", tokenizer:decode(ids))
    assert.equal("ab", tokenizer:decode(ids, { skip_special = true }))
    local stream <close> = tokenizer:stream { skip_special = true }
    local parts = {}
    for i, id in ipairs(ids) do parts[i] = stream:feed(id) end
    assert.same({ "", "a", "", "b" }, parts)
  end)

  it("refuses ids that are none", function()
    assert.error_matches(function() tokenizer:decode { 64, 1280 } end, "^token id 1280: expected 0 to 1279$")
    assert.error_matches(function() tokenizer:decode { 64, -1 } end, "^token id %-1: expected 0 to 1279$")
    assert.error_matches(function() tokenizer:decode { 64, "x" } end, "ids%[2%]: found string, expected a token id$")
    assert.error_matches(function() tokenizer:decode { 64, 0.5 } end, "ids%[2%]: found number, expected a token id$")
    assert.error_matches(function() tokenizer:token(1280) end, "^token id 1280: expected 0 to 1279$")
    assert.error_matches(function() tokenizer:is_special(1 << 40) end, "^token id 1099511627776: expected 0 to 1279$")
    assert.error_matches(function() tokenizer:stream():feed(1280) end, "^token id 1280: expected 0 to 1279$")
    assert.equal("", tokenizer:decode {})
  end)

  it("streams whole characters, whatever the bytes", function()
    math.randomseed(1)
    local parts = { "é", "😀", "€", "\xe2\x82", "\xf0\x9f", "\xff", "\x80", "a", " ", "\n", "<|eot_id|>" }
    for _ = 1, 500 do
      local text = ""
      for _ = 1, math.random(12) do text = text .. parts[math.random(#parts)] end
      local stream <close> = tokenizer:stream()
      local shown = ""
      for _, id in ipairs(tokenizer:encode(text)) do
        shown = shown .. stream:feed(id)
        -- What is held back is the start of a character: never more than three bytes.
        assert.equal(shown, text:sub(1, #shown))
        local rest = text:sub(#shown + 1)
        assert.is_true(utf8.len(text) == nil or utf8.len(shown) ~= nil, rest)
      end
      assert.equal(text, shown .. stream:finish())
      assert.equal("", stream:finish())
    end
  end)

  it("holds back the start of a character and nothing else", function()
    local stream <close> = tokenizer:stream()
    local function feed(byte) return stream:feed(tokenizer:id(string.char(byte))) end
    assert.same({ "", "", "", "😀" }, { feed(0xf0), feed(0x9f), feed(0x98), feed(0x80) })
    assert.same({ "", "", "\xf0\x9fa" }, { feed(0xf0), feed(0x9f), feed(0x61) })
    assert.same({ "\xff", "\x80", "" }, { feed(0xff), feed(0x80), feed(0xe2) })
    assert.equal("\xe2", stream:finish())
  end)

  it("lives on in its streams", function()
    local other = assert(ms.load_tokenizer(FOLDER))
    local stream <close> = other:stream()
    other:close()
    assert.equal("a", stream:feed(64))
  end)

  it("throws once it is closed", function()
    local other = assert(ms.load_tokenizer(FOLDER))
    local stream = other:stream()
    other:close()
    other:close()
    stream:close()
    stream:close()
    assert.equal("moonscope.Tokenizer (closed)", tostring(other))
    assert.error_matches(function() other:encode "a" end, "tokenizer: closed")
    assert.error_matches(function() other:n_vocab() end, "tokenizer: closed")
    assert.error_matches(function() stream:feed(64) end, "decoder: closed")
  end)
end)

describe("a tokenizer of characters", function()
  local PIECES = "tests/fixtures/sentencepiece"
  local tokenizer

  setup(function() tokenizer = assert(ms.load_tokenizer(PIECES)) end)
  teardown(function() tokenizer:close() end)

  ---The file with a field set, as a tokenizer or nil, message, code.
  local function variant(change)
    local folder, file = fixtures.folder(), assert(json.read(PIECES .. "/tokenizer.json"))
    file.pre_tokenizer = nil
    change(file)
    fixtures.write(folder .. "/tokenizer.json", json.encode(file))
    local other, message, code = ms.load_tokenizer(folder)
    fixtures.remove(folder)
    return other, message and message:gsub("^.*/tokenizer.json: ", ""), code
  end

  it("gives back any text", function()
    math.randomseed(2)
    local parts = {
      "the fox", " ", "  ", "\n", "\u{e9}", "\u{4f60}\u{597d}", "\u{1f600}", "\xff", "\xe2\x96", "</s>", "<0x0A>",
      "e\u{301}",
    }
    for _ = 1, 500 do
      local text = ""
      for _ = 1, math.random(12) do text = text .. parts[math.random(#parts)] end
      local ids, offsets = tokenizer:encode(text, { special = false, offsets = true })
      assert.equal(text, tokenizer:decode(ids))
      local last = 0
      for i, id in ipairs(ids) do
        local first, piece = offsets[i][1], text:sub(offsets[i][1], offsets[i][2])
        assert.equal(last + 1, first)
        assert.equal(tokenizer:token(id), i == 1 and " " .. piece or piece)
        last = offsets[i][2]
      end
      assert.equal(#text, last)
    end
  end)

  it("puts a space in front, and takes U+2581 for one", function()
    assert.same({ tokenizer:id " the" }, tokenizer:encode "the")
    assert.same({ 1, tokenizer:id " the", 2, tokenizer:id " the" }, tokenizer:encode("the</s>the", { bos = true }))
    assert.equal("<s> the</s> the", tokenizer:decode(tokenizer:encode("<s>the</s>the")))
    assert.equal("the the", tokenizer:decode(tokenizer:encode "the\u{2581}the"))
    assert.same({ 3 + 10 }, { tokenizer:id "\n" })
    assert.equal("\n", tokenizer:token(13))
    local first <close> = assert(variant(function(file)
      file.normalizer = nil
      file.pre_tokenizer = { type = "Metaspace", replacement = "\u{2581}", prepend_scheme = "first", split = false }
    end))
    assert.same({ first:id " the", 2, first:id "t", first:id "he" }, first:encode "the</s>the")
  end)

  it("never makes a token with a plain space, which an added one may name", function()
    local function with_space(file) file.model.vocab[" the"] = 900 end
    do
      local other <close> = assert(variant(with_space))
      assert.same({ 900, " the" }, { other:n_vocab() - 1, other:token(900) })
      assert.same(tokenizer:encode "the the", other:encode "the the")
    end
    local function add(id)
      return variant(function(file)
        with_space(file)
        table.insert(file.added_tokens, { id = id, content = " the", special = false })
      end)
    end
    local other <close> = assert(add(900))
    local ids = other:encode "to the"
    assert.equal(900, ids[#ids])
    assert.same({ nil, "added_tokens[3]: id 901 disagrees with model.vocab or an earlier one", "EFORMAT" },
      { add(901) })
  end)

  it("refuses what is there twice, bytes included (P7)", function()
    local text = fixtures.read(PIECES .. "/tokenizer.json")
    for token, message in pairs {
      ["<0x0A>"] = '"<0x0A>" is there twice', ["\u{2581}the"] = '"\u{2581}the" is there twice',
    } do
      local folder = fixtures.folder()
      fixtures.write(folder .. "/tokenizer.json", (text:gsub('"vocab":%s*{', '%0"' .. token .. '":900,', 1)))
      local other, found, code = ms.load_tokenizer(folder)
      fixtures.remove(folder)
      assert.same({ nil, "EFORMAT" }, { other, code })
      assert.matches("model.vocab: " .. message, found, 1, true)
    end
  end)

  it("goes on behind a special token of a chat, in a long turn as in a short one", function()
    local first <close> = assert(variant(function(file)
      file.normalizer = nil
      file.pre_tokenizer = { type = "Metaspace", replacement = "\u{2581}", prepend_scheme = "first", split = false }
    end))
    for _, n in ipairs { 1, 20000 } do
      local content = ("the"):rep(n)
      local ids = first:chat({ { role = "user", content = content } }, { format = "llama2" })
      assert.equal("<s>[INST] " .. content .. " [/INST]", first:decode(ids))
      assert.equal("[", first:token(ids[2]))
    end
  end)

  it("takes linear time", function()
    for _, unit in ipairs { "a", " ", " the", "\u{301}", "\u{1f600}" } do
      local text, start = unit:rep((1 << 20) // #unit), os.clock()
      assert.equal(text, tokenizer:decode(tokenizer:encode(text)))
      assert.is_true(os.clock() - start < 20)
    end
  end)

  local bad = {
    { function(f) f.normalizer = { type = "NFC" } end, "normalizer: NFC, expected Replace of spaces by U+2581" },
    { function(f) f.normalizer.normalizers[1].prepend = "x" end,
      "normalizer: Prepend, expected Prepend of U+2581, then Replace" },
    { function(f) f.pre_tokenizer = { type = "ByteLevel" } end,
      "pre_tokenizer: ByteLevel, expected none beside a normalizer" },
    { function(f) f.normalizer = nil end, "pre_tokenizer: null, expected Metaspace with U+2581" },
    { function(f)
      f.normalizer, f.pre_tokenizer = nil, { type = "Metaspace", replacement = "\u{2581}", prepend_scheme = "always" }
    end, "pre_tokenizer Metaspace: split, expected one that splits nothing" },
    { function(f)
      f.normalizer, f.pre_tokenizer = nil, { type = "Metaspace", replacement = "\u{2581}", split = false }
    end, "pre_tokenizer Metaspace: no prepend_scheme, expected never, first or always" },
    { function(f) f.decoder.decoders[4].start = 2 end,
      "decoder: Sequence, expected Replace, ByteFallback, Fuse and a Strip of one space" },
    { function(f) f.model.ignore_merges = true end,
      "model: ignore_merges, expected a BPE with byte_fallback without it" },
    { function(f) f.model.vocab["<0x41>"] = nil end, "model.vocab: no token for byte 0x41, expected one for each" },
    { function(f)
      f.model.vocab["\u{2581}"] = nil
      f.model.merges = json.array {}
    end, "model.vocab: no token for U+2581, the space" },
  }
  for i = 1, #bad do
    it("refuses what it does not do " .. i, function()
      local other, message, code = variant(bad[i][1])
      assert.same({ nil, "EUNSUPPORTED" }, { other, code })
      assert.matches(bad[i][2], message, 1, true)
    end)
  end
end)

describe("a tokenizer that normalizes", function()
  it("takes text in form C, and tells where it was", function()
    local folder, file = fixtures.folder(), assert(json.read(FOLDER .. "/tokenizer.json"))
    file.normalizer = { type = "NFC" }
    fixtures.write(folder .. "/tokenizer.json", json.encode(file))
    local tokenizer <close> = assert(ms.load_tokenizer(folder))
    fixtures.remove(folder)
    local text = "a e\u{301} \xff\u{212b}b"
    local ids, offsets = tokenizer:encode(text, { offsets = true })
    assert.equal("a \u{e9} \xff\u{c5}b", tokenizer:decode(ids))
    assert.same(tokenizer:encode "a \u{e9} \xff\u{c5}b", ids)
    assert.equal(#text, offsets[#ids][2])
    local last = 0
    for _, place in ipairs(offsets) do
      assert.equal(last + 1, place[1])
      last = place[2]
    end
    -- a character of two tokens: the first of them has no place of its own in the text
    ids, offsets = tokenizer:encode("a g\u{30c}b", { offsets = true })
    assert.same({ "a", " ", "\u{1e7}", "b" }, {
      tokenizer:token(ids[1]), tokenizer:token(ids[2]), tokenizer:decode { ids[3], ids[4] }, tokenizer:token(ids[5]) })
    assert.same({ { 1, 1 }, { 2, 2 }, { 3, 2 }, { 3, 5 }, { 6, 6 } }, offsets)
    local marks = ("\u{301}\u{316}"):rep(1 << 18)
    assert.error_matches(function() tokenizer:encode(marks) end, "more than 512 combining marks in a row", 1, true)
    local many = ("e\u{301}"):rep(1 << 19)
    local start = os.clock()
    assert.equal(("\u{e9}"):rep(1 << 19), tokenizer:decode(tokenizer:encode(many)))
    assert.is_true(os.clock() - start < 20)
  end)
end)
