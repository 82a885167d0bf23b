-- SPDX-License-Identifier: MIT
-- Generation and edits on a device against the golden numbers, from Lua and without busted:
--   moonscope tests/gpu/golden.lua [DEVICE] [FILE.safetensors]     in the project's folder or a bundle
-- FILE gets logits and features: two runs on one device shall write the same bytes.
local core = require "moonscope.core"
local json = require "moonscope.json"
local ms = require "moonscope"

local MODEL, SAE = "examples/tiny", "examples/tiny/Moonscope-Tiny-Llama-SAE-l3.pth"
local PLACE = "model.layers.3"

local device, out_path = arg[1] or "cpu", arg[2]
local file <close> = assert(io.open("tests/fixtures/tiny/golden/golden.json", "rb"))
local golden = assert(json.decode(file:read "a"))

local n_failures = 0

local function test(name, body)
  local ok, message = xpcall(body, debug.traceback)
  print((ok and "ok      " or "FAILED  ") .. name .. (ok and "" or "\n" .. message))
  if not ok then n_failures = n_failures + 1 end
end

local function same_ids(want, got, what)
  want, got = table.concat(want, " "), table.concat(got, " ")
  if want ~= got then error(("%s:\nfound    %s\nexpected %s"):format(what, got, want), 2) end
end

local function close_to(want, got, atol)
  if not got:allclose(want, { atol = atol }) then
    error(("found\n%s\nexpected, within %g\n%s"):format(got, atol, want), 2)
  end
end

local function generation(model, sae)
  test("greedy tokens in exact", function()
    for i, prompt in ipairs(golden.prompts) do
      same_ids(prompt.greedy_ids, model:generate(prompt.ids, { max_tokens = 40 }).ids, "prompt " .. i)
    end
  end)

  test("steered tokens in exact", function()
    for _, case in ipairs(golden.steering) do
      local edit = { sae = sae, feature = case.feature, op = "add", value = case.amount }
      for number, want in ipairs(case.greedy_add_keep_error) do
        local prompt = golden.prompts[case.prompts[number] + 1]
        local reply = model:generate(prompt.ids, { max_tokens = 40, edits = { edit } })
        same_ids(want.ids, reply.ids, "feature " .. case.feature)
        assert(reply.edits[1].positions == #prompt.ids + #want.ids - 1, "positions")
      end
    end
  end)

  test("sessions stepped together have the bits they have alone", function()
    local together, ids, alone = {}, {}, {}
    for i, prompt in ipairs(golden.prompts) do
      together[i], ids[i] = model:session(), 300 + i
      together[i]:prefill(prompt.ids)
      local session <close> = model:session()
      session:prefill(prompt.ids)
      alone[i] = session:step(ids[i]).logits
    end
    for i, out in ipairs(model:step(together, ids)) do
      assert(out.logits:contiguous():equal(alone[i]), "session " .. i)
      together[i]:close()
    end
  end)
end

---Edits change the stream by (f' - f) times the feature's direction.
local function edits(model, sae)
  local ids = golden.prompts[1].ids
  local function stream(list)
    return model:forward(ids, { capture = { PLACE }, edits = list, logits = false }).captures[PLACE]
  end
  local plain = stream()
  local features <close> = sae:encode(plain)
  local f = features:totensor():narrow(2, 1175, 1) -- feature 1174 is column 1175
  local direction = sae:direction(1174):reshape(1, sae.d_model)

  for _, case in ipairs {
    { "add", 3, f * 0 + 3 }, { "set", 2, f * -1 + 2 }, { "scale", 3, f * 2 }, { "ablate", nil, f * -1 },
  } do
    local op, value, change = table.unpack(case, 1, 3)
    test(op .. " moves the stream along the feature's direction", function()
      local edit = { sae = sae, feature = 1174, op = op, value = value }
      close_to(plain + change:matmul(direction), stream { edit }, 1e-4)
    end)
  end

  test("without the error term the stream is the reconstruction", function()
    close_to(sae:decode(features), stream { { sae = sae, feature = 0, op = "scale", value = 1, keep_error = false } },
      1e-4)
  end)

  test("an edit asks Lua at each position", function()
    local asked = 0
    local edit = { sae = sae, feature = 1174, op = "ablate", when = function(_, step)
      asked = asked + 1
      return step < 0
    end }
    assert(stream({ edit }):equal(plain), "an edit that says no changes nothing")
    assert(asked == #ids, asked)
  end)
end

local function fast(model)
  test("greedy tokens in fast, where the gap is above 0.14", function()
    for i, prompt in ipairs(golden.prompts) do
      if prompt.greedy_smallest_logit_gap > 0.14 then
        same_ids(prompt.greedy_ids, model:generate(prompt.ids, { max_tokens = 40 }).ids, "prompt " .. i)
      end
    end
  end)
end

local function transfers()
  test("tensors come back as they went, in every dtype", function()
    local here = ms.randn({ 300, 257 }, { seed = 5 }) * 50
    for _, dtype in ipairs { "f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8" } do
      local cast = here:to { dtype = dtype }
      local there = cast:to { device = device }
      assert(there:device():find(device, 1, true) == 1, there:device())
      assert(there:t():contiguous():t():contiguous():to({ device = "cpu" }):equal(cast), dtype)
      local cast_there = here:to({ device = device }):to({ dtype = dtype })
      assert(cast_there:to({ device = "cpu" }):equal(cast), dtype .. ", cast there")
    end
  end)
end

---What a run computes, for comparing two runs byte by byte.
local function results(model, sae, precision, into)
  for i, prompt in ipairs(golden.prompts) do
    local out = model:forward(prompt.ids, { capture = { PLACE }, logits = "all" })
    local features <close> = sae:encode(out.captures[PLACE])
    into[("%s.%d.logits"):format(precision, i)] = out.logits:to { device = "cpu" }
    into[("%s.%d.features"):format(precision, i)] = features:totensor():to { device = "cpu" }
    local session <close> = model:session()
    session:prefill(prompt.ids)
    into[("%s.%d.step"):format(precision, i)] = session:step(300).logits:to { device = "cpu" }
  end
end

---body(model, sae) at a precision.
local function with(precision, body)
  local model <close> = assert(ms.load_model(MODEL, { device = device, precision = precision }))
  local sae <close> = assert(ms.load_sae(SAE, { model = model }))
  body(model, sae)
end

local function all()
  local saved = {}
  transfers()
  with("exact", function(model, sae)
    generation(model, sae)
    edits(model, sae)
    results(model, sae, "exact", saved)
  end)
  with("fast", function(model, sae)
    fast(model)
    results(model, sae, "fast", saved)
  end)
  if out_path then assert(ms.save(out_path, saved)) end
end

all()
collectgarbage()
collectgarbage()
test("no storage is left", function() assert(core.storage_live() == 0, core.storage_live()) end)
if n_failures > 0 then error(n_failures .. " failed", 0) end
