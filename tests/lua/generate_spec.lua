-- SPDX-License-Identifier: MIT
local fixtures = require "fixtures"
local json = require "moonscope.json"
local ms = require "moonscope"
local process = require "process"

local golden = fixtures.golden

describe("generate", function()
  local model, sae
  setup(function() model, sae = fixtures.load { precision = "exact" } end)
  teardown(function()
    model:close()
    sae:close()
    model = nil -- and with it its tokenizer
  end)

  it("writes the golden greedy tokens and text in exact", function()
    for _, prompt in ipairs(golden.prompts) do
      local reply = model:generate(prompt.ids, { max_tokens = 40 })
      assert.same(prompt.greedy_ids, reply.ids)
      assert.equal(prompt.greedy_text, model.tokenizer:decode(reply.ids))
      local ended = #prompt.greedy_ids < 40
      assert.equal(ended and "stop" or "length", reply.finish_reason)
      assert.equal(#prompt.ids, reply.timings.prompt_tokens)
    end
  end)

  it("writes the golden steered tokens", function()
    for _, case in ipairs(golden.steering) do
      for number, want in ipairs(case.greedy_add_keep_error) do
        local prompt = golden.prompts[case.prompts[number] + 1]
        local reply = model:generate(prompt.ids, {
          max_tokens = 40, edits = { { sae = sae, feature = case.feature, op = "add", value = case.amount } },
        })
        -- the golden text is of the same bf16 SAE, whose numbers `exact` multiplies in f32
        assert.same(want.ids, reply.ids)
        assert.equal(#prompt.ids + #want.ids - 1, reply.edits[1].positions)
      end
    end
  end)

  it("writes the golden tokens in fast as far as the gap is above 0.14", function()
    local fast <close> = assert(ms.load_model(fixtures.model_path))
    for _, prompt in ipairs(golden.prompts) do
      if prompt.greedy_smallest_logit_gap > 0.14 then
        assert.same(prompt.greedy_ids, fast:generate(prompt.ids, { max_tokens = 40 }).ids)
      end
    end
  end)

  it("streams what it returns, whole characters only", function()
    local pieces = {}
    local reply = model:generate(golden.prompts[4].text, {
      max_tokens = 20, on_token = function(token) pieces[#pieces + 1] = token.text end,
    })
    assert.equal(reply.text, table.concat(pieces))
    for _, piece in ipairs(pieces) do assert.truthy(utf8.len(piece)) end
  end)

  it("keeps the end token out of the text and goes on past it when asked", function()
    local chat = golden.prompts[2]
    local reply = model:generate(chat.ids)
    assert.equal("The duck is white.", reply.text)
    assert.equal(1279, reply.ids[#reply.ids])
    assert.equal(40, #model:generate(chat.ids, { ignore_eos = true }).ids)
  end)

  it("draws the same tokens for the same seed, others for another", function()
    local function draw(seed)
      return model:generate(golden.prompts[1].ids, { max_tokens = 20, temperature = 1.5, seed = seed }).ids
    end
    assert.same(draw(1), draw(1))
    assert.not_same(draw(1), draw(2))
  end)

  it("is greedy when only one candidate is left", function()
    local greedy = model:generate(golden.prompts[1].ids, { max_tokens = 8 }).ids
    for _, opts in ipairs { { top_k = 1 }, { top_p = 1e-6 }, { min_p = 1 } } do
      opts.temperature, opts.max_tokens = 2, 8
      assert.same(greedy, model:generate(golden.prompts[1].ids, opts).ids)
    end
  end)

  it("ends when the context is full", function()
    local small <close> = assert(ms.load_model(fixtures.model_path, { context = 30 }))
    local reply = small:generate(golden.prompts[1].ids, { ignore_eos = true })
    assert.equal(5, #reply.ids) -- 26 positions, 4 more, and one token that none need be made for
    assert.equal("length", reply.finish_reason)
  end)

  it("says what is wrong with its options", function()
    local function bad(opts, message)
      assert.error_matches(function() model:generate("a", opts) end, message, 1, true)
    end
    bad({ temperature = -1 }, "temperature: found -1, expected 0 or more")
    bad({ temperature = 0 / 0 }, "temperature: found")
    bad({ top_k = -1 }, "top_k: found -1, expected 0 (all) or more")
    bad({ top_p = 0 }, "top_p: found 0, expected more than 0, at most 1")
    bad({ min_p = 2 }, "min_p: found 2, expected 0 to 1")
    bad({ max_tokens = -1 }, "max_tokens: found -1, expected a whole number from 0")
    bad({ tempreature = 1 }, "unknown option tempreature")
    assert.equal(0, #model:generate("a", { max_tokens = 0 }).ids)
  end)
end)

describe("moonscope generate", function()
  local function run(...) return process.moonscope { "generate", "--model", fixtures.model_path, ... } end

  it("prints the text", function()
    local result = run("--precision", "exact", "--prompt", golden.prompts[1].text)
    assert.same({ 0, golden.prompts[1].greedy_text .. "\n", "" }, { result.code, result.out, result.err })
  end)

  it("prints JSON in its order", function()
    local result = run("--precision", "exact", "--json", "-n", "3", "--prompt", golden.prompts[1].text)
    assert.matches('^{"prompt_ids":%[1275,601,.-%],"ids":%[.-%],"text":".-","finish_reason":"length",'
      .. '"timings":{', result.out)
    local reply = assert(json.decode(result.out))
    assert.same(golden.prompts[1].ids, reply.prompt_ids)
    assert.equal(3, #reply.ids)
  end)

  it("edits features", function()
    local case = golden.steering[1]
    local result = run("--precision", "exact", "--json", "--prompt", golden.prompts[1].text, "--sae", fixtures.sae_path,
      "--edit", ("%d:add:%g"):format(case.feature, case.amount))
    assert.same(case.greedy_add_keep_error[1].ids, assert(json.decode(result.out)).ids)
  end)

  it("says when an edit takes the stream out of f32's range", function()
    for _, edit in ipairs { "458:add:1e20", "458:set:-1e20", "1174:scale:1e20" } do
      for _, temperature in ipairs { "0", "1" } do
        local result = run("-n", "8", "--prompt", golden.prompts[1].text, "--sae", fixtures.sae_path,
          "--edit", edit, "--temperature", temperature)
        assert.same({ 1, "" }, { result.code, result.out }, edit)
        assert.matches("^moonscope: sampler: the logit of token %d+ is not a number: the weights are broken, or an "
          .. "edit's value took the stream out of f32's range\n$", result.err)
      end
    end
  end)

  it("says what is wrong, in one line", function()
    local function bad(code, message, ...)
      local result = run(...)
      assert.same({ code, "" }, { result.code, result.out })
      assert.equal("moonscope: " .. message .. "\n", result.err)
    end
    bad(2, "generate: --edit: needs --sae, the autoencoder whose feature it changes (see moonscope generate --help)",
      "--prompt", "a", "--edit", "1:ablate")
    bad(2, "generate: '1:add' is no edit; expected FEATURE:add:VALUE, FEATURE:set:VALUE, FEATURE:scale:VALUE or "
      .. "FEATURE:ablate (see moonscope generate --help)", "--prompt", "a", "--edit", "1:add")
    bad(1, "edit 1: feature: found 2048, expected 0 to 2047", "--prompt", "a", "--sae", fixtures.sae_path,
      "--edit", "2048:ablate")
  end)
end)
