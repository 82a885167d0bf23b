-- SPDX-License-Identifier: MIT
---What a format sees of a file while it is recognised and told in canonical terms: the tensors, the
---config files beside it, and what the caller answered. Whatever does not fit is refused: an error that
---is a table { message, code }, which the loader catches.
local json = require "moonscope.json"
local numbers = require "moonscope.numbers"
local options = require "moonscope.options"
local places = require "moonscope.places"

local Look = {}
Look.__index = Look

---@param file moonscope.Checkpoint
---@param path string  of the weights
---@param answers {format: string?, activation: string?, input_scale: number?}
function Look.new(file, path, answers)
  local folder, name = path:match "^(.*)/([^/]*)$"
  return setmetatable({
    file = file, path = path, folder = folder or ".", name = name or path, answers = answers, configs = {},
  }, Look)
end

---@param code string
---@param format string
function Look.refuse(_, code, format, ...)
  error({ message = format:format(...), code = code }, 0)
end

-- Tensors

function Look:has(...)
  for _, name in ipairs { ... } do
    if not self.file:info(name) then return false end
  end
  return true
end

local function shape_text(shape) return "[" .. table.concat(shape, ", ") .. "]" end

---Refuses a tensor that is missing or has another shape.
function Look:expect(name, shape)
  local info = self.file:info(name)
  if not info then self:refuse("ESHAPE", "has no tensor %s", name) end
  if shape_text(info.shape) ~= shape_text(shape) then
    self:refuse("ESHAPE", "%s: found shape %s, expected %s", name, shape_text(info.shape), shape_text(shape))
  end
end

---The two sizes of a matrix.
---@param what string  "[d_sae, d_model]", for the message
---@return integer
---@return integer
function Look:matrix(name, what)
  local info = self.file:info(name)
  if not info then self:refuse("ESHAPE", "has no tensor %s", name) end
  local shape = info.shape
  if #shape ~= 2 or shape[1] < 1 or shape[2] < 1 then
    self:refuse("ESHAPE", "%s: found shape %s, expected %s", name, shape_text(shape), what)
  end
  return shape[1], shape[2]
end

local NUMBERS = options.names("f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8")

---The one number in a tensor; nil where there is no such tensor. Refuses NaN and infinity.
---@return number?
function Look:scalar(name)
  local info = self.file:info(name)
  if not info then return nil end
  if not NUMBERS[info.dtype] then
    self:refuse("EDTYPE", "%s: found dtype %s, expected a number", name, info.dtype)
  end
  local t <close> = self.file:tensor(name)
  if t:numel() ~= 1 then
    self:refuse("ESHAPE", "%s: found shape %s, expected one number", name, shape_text(info.shape))
  end
  local value = t:item()
  if value - value ~= 0 then
    self:refuse("ERANGE", "%s: found %s, expected a finite number", name, numbers.text(value))
  end
  return value
end

---Refuses a vector with NaN or infinity, as f32 has it. What is compared with such a number never fires, or always.
---@param part moonscope.Part
---@param values moonscope.Tensor  of the part
function Look:finite(part, values)
  local as_f32 <close> = values:to { dtype = "f32" }
  local n_bad, first, found = 0, nil, nil
  for i, value in ipairs(as_f32:totable()) do
    if value - value ~= 0 then
      n_bad = n_bad + 1
      if n_bad == 1 then first, found = i - 1, value end
    end
  end
  if n_bad > 0 then
    self:refuse("ERANGE", "%s: %d of %d are not finite, the first at %d: %s", part[1], n_bad, as_f32:numel(), first,
      numbers.text(found))
  end
end

-- Config files

---The JSON object in a file of the folder; nil where there is no such file.
---@param name string  "cfg.json", "../hyperparams.json"
---@return table?
function Look:config(name)
  if self.configs[name] == nil then
    local path = self.folder .. "/" .. name
    local config, message, code = json.read(path)
    if config ~= nil and (type(config) ~= "table" or #config > 0) then
      message, code = path .. ": expected a JSON object", "EFORMAT"
    end
    if message and code ~= "ENOENT" then error({ whole = message, code = code }, 0) end
    self.configs[name] = config or false
  end
  return self.configs[name] or nil
end

---The same, which must be there.
function Look:needs(name, what)
  return self:config(name) or self:refuse("EFORMAT", "needs %s beside it, which tells %s", name, what)
end

local types = {
  text = function(v) return type(v) == "string" end,
  flag = function(v) return type(v) == "boolean" end,
  count = function(v) return math.type(v) == "integer" and v > 0 end,
  number = function(v) return type(v) == "number" end,
  positive = function(v) return type(v) == "number" and v > 0 and numbers.is_normal_f32(v) end,
  threshold = function(v) return type(v) == "number" and (v == 0 or numbers.is_normal_f32(v)) end,
  object = function(v) return type(v) == "table" and #v == 0 end,
}
local WORDS = {
  text = "a text", flag = "true or false", count = "a whole number above 0", number = "a number",
  positive = "a number above 0 in f32's range", threshold = "a number in f32's range", object = "an object",
}

local function shown(value)
  if value == nil or value == json.null then return "nothing" end
  if type(value) == "table" then return "a table" end
  return (type(value) == "string" and '"%s"' or "%s"):format(tostring(value))
end

---A field of a config: of this kind, or nil where it is missing or null.
---@param kind "text"|"flag"|"count"|"number"|"positive"|"threshold"|"object"
---@param where string  the config's name, for the message
function Look:field(config, name, kind, where)
  local value = config[name]
  if value == nil or value == json.null then return nil end
  if not types[kind](value) then
    self:refuse("EFORMAT", "%s: %s: found %s, expected %s", where, name, shown(value), WORDS[kind])
  end
  return value
end

---A field that must be there.
function Look:need(config, name, kind, where)
  local value = self:field(config, name, kind, where)
  if value == nil then self:refuse("EFORMAT", "%s: %s: found nothing, expected %s", where, name, WORDS[kind]) end
  return value
end

---A flag with a default.
function Look:flag(config, name, default, where)
  local value = self:field(config, name, "flag", where)
  if value == nil then return default end
  return value
end

---Refuses a config that says another size than the tensors.
function Look:agree(config, name, found, where)
  local said = self:field(config, name, "count", where)
  if said and said ~= found then
    self:refuse("ESHAPE", "%s: %s is %d, the tensors' is %d", where, name, said, found)
  end
end

-- Places

---"model.layers.N" and what follows; refuses a number that no layer has.
---@param layer string|integer
---@param suffix string?
---@param where string  for the message
function Look:place(layer, suffix, where)
  local number = places.layer_number(layer)
  if not number then
    self:refuse("ERANGE", "%s: found layer %s, expected 0 to %d", where, tostring(layer), places.MAX_LAYER)
  end
  return ("model.layers.%d%s"):format(number, suffix or "")
end

---A field that names a place; a TransformerLens hook becomes a module's path.
function Look:hook(config, name, where)
  local hook = self:field(config, name, "text", where)
  if not hook then return nil end
  local layer = hook:match "^blocks%.(%d+)%." or hook:match "^model%.layers%.(%d+)"
  if layer then self:place(layer, "", where .. ": " .. name) end
  return places.of_hook(hook)
end

-- Answers

---The activation: what the file says, else what the caller answered, else a question.
---@param known string?
---@param open string[]?  what an answer may be, where the file does not say
---@param why string?  why it does not
---@return string activation
---@return number? number  "topk:64" gives 64
function Look:activation(known, open, why)
  local answer = self.answers.activation
  if not answer then
    return known or self:refuse("EINVAL", "%s: say it with --activation %s", why, table.concat(open, " or "))
  end
  local name, number = answer:match "^(%a+)$", nil
  if not name then name, number = answer:match "^(%a*topk):(%d+)$" end
  if not name then
    self:refuse("EINVAL", "activation: found %s, expected a name, topk:K or batchtopk:K", answer)
  end
  if known and answer ~= known then
    self:refuse("EINVAL", "activation: the file says %s, but --activation says %s", known, answer)
  end
  for _, choice in ipairs(known and {} or open) do
    if name == choice:match "^%a+" then return name, tonumber(number) end
  end
  return known or self:refuse("EINVAL", "activation: found %s, expected %s", answer, table.concat(open, " or "))
end

---Refuses a k that is not a whole number from 1 to d_sae.
function Look:k(value, d_sae, where)
  local k = math.tointeger(value)
  if not k or k < 1 or k > d_sae then
    self:refuse("ERANGE", "%s: found %s, expected a whole number from 1 to %d", where, shown(value), d_sae)
  end
  return k
end

---The scale of the input that only the model's activations tell.
---@return number
function Look:input_scale(why)
  local scale = self.answers.input_scale
  if not scale then self:refuse("EINVAL", "%s: say the factor with --input-scale: sqrt(d_model) / mean |x|", why) end
  self.scale_was_used = true
  return scale
end

return Look
