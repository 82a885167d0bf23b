-- SPDX-License-Identifier: MIT
-- Sixteen clients do anything at any time (P21): every answer is one that is allowed, no text is of
-- another model than the answer says. MOONSCOPE_STORM=600 makes it ten minutes.
local fixtures = require "fixtures"
local http = require "http"
local json = require "moonscope.json"
local uv = require "luv"

local SECONDS = tonumber(os.getenv "MOONSCOPE_STORM" or 6)
local SAE = "tiny/Moonscope-Tiny-Llama-SAE-l3.pth"
local PROMPT = "Once upon a time there was a small red fox named Mia."
local EDITS = { { layer = 3, feature = 458, op = "add", value = 3.85 } }

local ALLOWED = {
  ["POST /load-model"] = { [200] = true, [409] = true, [503] = true },
  ["POST /unload-model"] = { [200] = true, [503] = true },
  ["POST /load-sae"] = { [200] = true, [400] = true, [409] = true, [503] = true },
  ["DELETE /sae/3"] = { [200] = true, [404] = true },
  ["POST /v1/completions"] = { [200] = true, [400] = true, [404] = true, [429] = true, [503] = true },
  ["POST /inference"] = { [200] = true, [400] = true, [429] = true, [503] = true },
  ["POST /patch"] = { [200] = true, [400] = true, [404] = true, [429] = true, [503] = true },
  ["DELETE /patch/feature_458_layer_3"] = { [200] = true, [404] = true },
  ["GET /features"] = { [200] = true, [400] = true, [429] = true, [503] = true },
  ["GET /jobs"] = { [200] = true }, ["GET /model/status"] = { [200] = true }, ["GET /sae/status"] = { [200] = true },
}

local function completion(edited, stream)
  return { prompt = PROMPT, temperature = 0, max_tokens = 12, edits = edited and EDITS or nil, stream = stream }
end

local function key_of(model, edited) return model .. (edited and " edited" or "") end

---What each model writes, alone.
local function oracle_of(server, models)
  local texts = {}
  for _, model in ipairs(models) do
    assert.equal(200, (server:request("POST", "/load-model", { model_name = model })))
    assert.equal(200, (server:request("POST", "/load-sae", { saePath = SAE })))
    for _, edited in ipairs { false, true } do
      local _, body = server:request("POST", "/v1/completions", completion(edited))
      texts[key_of(model, edited)] = body.choices[1].text
    end
  end
  return texts
end

---The text of a stream that ended well; nil for one that ended with an error.
local function text_of(events)
  if not events:find("data: [DONE]", 1, true) then
    assert.truthy(events:find('"code":"EMODEL"', 1, true), events)
    return nil
  end
  local parts, model = {}, nil
  for data in events:gmatch "data: ({[^\n]*})\n" do
    local chunk = json.decode(data)
    model = chunk.model
    parts[#parts + 1] = chunk.choices[1] and chunk.choices[1].text
  end
  return table.concat(parts), model
end

describe("a storm of clients (P21)", function()
  it("gets clear answers, each of the model that it names", function()
    local config = fixtures.config('"rope_theta": [%d.]+', '"rope_theta": 777.0')
    local other = fixtures.tiny_copy { ["config.json"] = config }
    local server = http.serve { "--data", "examples", "--data", other, "--precision", "exact" }
    local models = { "tiny", other }
    local texts = oracle_of(server, models)
    assert.not_equal(texts[key_of("tiny")], texts[key_of(other)])
    local stop = uv.hrtime() + SECONDS * 1e9
    local n = { [200] = 0 }

    local function ask(method, path, body)
      local status, answer = server:request(method, path, body)
      assert.is_true(ALLOWED[method .. " " .. path][status] or false,
        ("%s %s: %s %s"):format(method, path, status, json.encode(answer)))
      n[status] = (n[status] or 0) + 1
      return status, answer
    end

    local function write_and_compare(edited)
      local status, body = ask("POST", "/v1/completions", completion(edited))
      if status == 200 then assert.equal(texts[key_of(body.model, edited)], body.choices[1].text) end
    end

    ---With a patch or without: either is what that model writes.
    local function infer_and_compare()
      local status, body = ask("POST", "/inference", { text = PROMPT, max_length = 12 })
      if status ~= 200 then return end
      assert.equal(texts[key_of(body.modelName)], body.original_text)
      assert.equal(texts[key_of(body.modelName, #body.patches > 0)], body.generated_text)
    end

    local function stream_and_compare(edited)
      local status, events = ask("POST", "/v1/completions", completion(edited, true))
      local text, model
      if status == 200 then text, model = text_of(events) end
      if text then assert.equal(texts[key_of(model, edited)], text) end
    end

    local function leave_early()
      local connection = server:connect()
      local text = json.encode(completion(false, math.random() < 0.5))
      connection:write(("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        .. "Content-Length: %d\r\n\r\n%s"):format(#text, text))
      for _ = 1, math.random(0, 5) do coroutine.yield() end
      connection:close(math.random() < 0.5)
    end

    http.together(16, SECONDS, function()
      while uv.hrtime() < stop do
        local dice = math.random(100)
        if dice <= 6 then
          ask("POST", "/load-model", { model_name = models[math.random(2)] })
        elseif dice <= 8 then
          ask("POST", "/unload-model")
        elseif dice <= 16 then
          ask("POST", "/load-sae", { saePath = SAE })
        elseif dice <= 18 then
          ask("DELETE", "/sae/3")
        elseif dice <= 26 then
          infer_and_compare()
        elseif dice <= 29 then
          ask("POST", "/patch", { featureId = "layer_3_feature_458", strength = 3.85 })
        elseif dice <= 31 then
          ask("DELETE", "/patch/feature_458_layer_3")
        elseif dice <= 33 then
          ask("GET", "/features")
        elseif dice <= 55 then
          write_and_compare(dice % 2 == 0)
        elseif dice <= 80 then
          stream_and_compare(dice % 2 == 0)
        elseif dice <= 90 then
          leave_early()
        else
          ask("GET", ({ "/jobs", "/model/status", "/sae/status" })[dice % 3 + 1])
        end
      end
    end)

    assert.is_true(n[200] > 16)
    http.wait_for("the model", function()
      return (server:request("POST", "/load-model", { model_name = "tiny" })) == 200
    end)
    local _, body = server:request("POST", "/v1/completions", completion(false))
    assert.equal(texts[key_of("tiny")], body.choices[1].text)
    assert.is_nil(server.err:find '"error"', server.err:match '[^\n]*"error"[^\n]*')
    assert.equal(0, server:stop())
    fixtures.remove(other)
  end)
end)
