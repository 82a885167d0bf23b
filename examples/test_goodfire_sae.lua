-- SPDX-License-Identifier: MIT
-- Asks a running server (moonscope serve) for the whole way: model, SAE, its status, features, an inference.
-- Ends with 1 at the first step that fails. Needs curl.
--   moonscope examples/test_goodfire_sae.lua [URL [MODEL [SAE [LAYER]]]]
-- With the small model, beside `moonscope serve --data examples`:
--   moonscope examples/test_goodfire_sae.lua http://localhost:8000 tiny tiny/Moonscope-Tiny-Llama-SAE-l3.pth 3
local json = require "moonscope.json"

local url = (arg[1] or "http://localhost:8000"):gsub("/$", "")
local model = arg[2] or "meta-llama/Meta-Llama-3.1-8B-Instruct"
local sae = arg[3] or "sae_layer_19.safetensors"
local layer = math.tointeger(tonumber(arg[4] or 19))
local TEXT = "Once upon a time"

local function quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local function fail(step, message)
  io.stderr:write(("FAILED %s: %s\n"):format(step, message))
  os.exit(1)
end

---The answer's body; ends the script where there is none or it is an error.
local function request(step, method, path, body)
  local words = { "curl", "-sS", "-X", method, "-w", quoted "\n%{http_code}" }
  local function add(option, value) words[#words + 1] = option .. " " .. quoted(value) end
  if os.getenv "MOONSCOPE_TOKEN" then -- which nobody shall see among curl's arguments
    table.insert(words, 1, [[printf 'header = "Authorization: Bearer %s"' "$MOONSCOPE_TOKEN" |]])
    add("-K", "-")
  end
  if body then
    add("-H", "Content-Type: application/json")
    add("--data-binary", json.encode(body))
  end
  words[#words + 1] = quoted(url .. path)
  local pipe = assert(io.popen(table.concat(words, " ")))
  local text, status = pipe:read("a"):match "^(.*)\n(%d+)$"
  if not pipe:close() then fail(step, "no answer") end
  local answer = json.decode(text)
  if status ~= "200" or not answer then fail(step, ("%s %s"):format(status, text)) end
  print(("ok %s"):format(step))
  return answer
end

---The answer's field; ends the script where it is missing.
local function field(step, answer, name)
  if answer[name] == nil then fail(step, "the answer has no " .. name) end
  return answer[name]
end

request("load model", "POST", "/load-model", { model_name = model })

local loaded = request("load SAE", "POST", "/load-sae",
  { layer_idx = layer, saePath = sae, activationsPath = json.null })
for _, name in ipairs { "layer_idx", "layer_name", "expansion_factor" } do
  print(("  %s: %s"):format(name, field("load SAE", loaded, name)))
end

local status = request("SAE status", "GET", "/sae/status")
if status.status ~= "ready" then fail("SAE status", tostring(status.status)) end

local page = request("features", "GET", ("/features?layer_idx=%d&limit=10"):format(layer))
print("  total: " .. field("features", page, "total"))
for i, feature in ipairs(field("features", page, "features")) do
  local strength = feature.activation_strength
  if i <= 5 then print(("  %s: %s"):format(feature.id, strength == json.null and "not measured" or strength)) end
end

local inferred = request("inference", "POST", "/inference", { text = TEXT, max_length = 20 })
print("  inputText: " .. field("inference", inferred, "inputText"))
for i, token in ipairs(field("inference", inferred, "tokenProbabilities")) do
  if i <= 5 then print(("  %q: %.4f"):format(token.token, token.probability)) end
end
