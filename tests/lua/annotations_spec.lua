-- SPDX-License-Identifier: MIT
-- The annotations against what there is.
local annotations = require "moonscope.annotations"
local core = require "moonscope.core"
local fixtures = require "fixtures"

local found = annotations.read()

---What a class of the annotations stands for: a module's table, or a type's methods. nil for a mere table.
local function holder_of(class)
  if class.is_module then return require(class.name) end
  return core.types[class.title]
end

local function public_names(holder)
  local names = {}
  for name in pairs(holder) do
    if not name:find "^_" then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

local function annotated_names(class)
  local names = {}
  for name in pairs(class.by_name) do names[#names + 1] = name end
  if class.is_module then
    for _, field in ipairs(class.fields) do names[#names + 1] = field.name end
  end
  table.sort(names)
  return names
end

---Parameters of a Lua function by their names; nil for one of C, and for one that only hands on what it is given.
local function parameters_of(fn)
  local info = debug.getinfo(fn, "Su")
  if info.what == "C" or info.nparams == 0 and info.isvararg and not info.source:find "loop%.lua$" then return nil end
  local names = {}
  for i = 1, info.nparams do names[i] = debug.getlocal(fn, i) end
  if names[1] == "self" then table.remove(names, 1) end
  if info.isvararg then names[#names + 1] = "..." end
  return names
end

local function names_of(values)
  local names = {}
  for i, value in ipairs(values) do names[i] = value.name end
  return names
end

---"Tensor:narrow(dim, start, length)" -> { "dim", "start", "length" }
local function names_in(signature)
  local names = {}
  for name in signature:match("%((.*)%)$"):gmatch "[%w_.]+" do names[#names + 1] = name end
  return names
end

describe("the annotations", function()
  it("name what the modules and types have, and nothing else", function()
    local types = {}
    for _, class in ipairs(found.classes) do
      local holder = holder_of(class)
      if holder then
        types[class.title] = true
        assert.same({ class.title, public_names(holder) }, { class.title, annotated_names(class) })
      else
        assert.same({ class.title, {} }, { class.title, annotated_names(class) })
      end
    end
    for _, title in ipairs { "ms", "json", "loop", "features", "convert", "sae_configs", "Tensor", "Checkpoint",
      "Tokenizer", "Decoder", "Llama", "Session", "Sae", "Features" } do
      assert.is_true(types[title] or false, title)
    end
  end)

  it("call each parameter by its name, and say what each function is for", function()
    local compared = 0
    for _, class in ipairs(found.classes) do
      for _, member in ipairs(class.members) do
        assert.not_equal("", member.text, member.title)
        if member.is_function then
          assert.same({ member.title, names_in(member.signature) }, { member.title, names_of(member.params) })
          local real = parameters_of(holder_of(class)[member.name])
          compared = compared + (real and 1 or 0)
          if real then assert.same({ member.title, real }, { member.title, names_of(member.params) }) end
        end
      end
    end
    assert.is_true(compared > 50, compared)
  end)

  it("know every type that they name", function()
    local known = {}
    for _, class in ipairs(found.classes) do known[class.name] = true end
    for _, alias in ipairs(found.aliases) do known[alias.name] = true end
    local function check(title, values)
      for _, value in ipairs(values) do
        for name in value.type:gmatch "moonscope%.[%w_.]*[%w_]" do
          assert.is_true(known[name] or false, title .. ": " .. name)
        end
        assert.falsy(value.type:find "userdata", title)
      end
    end
    for _, class in ipairs(found.classes) do
      check(class.title, class.fields)
      for _, member in ipairs(class.members) do
        check(member.title, member.params)
        check(member.title, member.returns)
      end
    end
  end)

  it("name the fields of objects", function()
    local model, sae = fixtures.load()
    local session = model:session()
    for title, fields in pairs {
      Llama = core.fields(model), Sae = core.fields(sae), Session = core.fields(session),
      Tokenizer = core.fields(model.tokenizer), Config = model.config,
    } do
      local known = {}
      for _, field in ipairs(found.by_class["moonscope." .. title].fields) do
        known[field.name] = true
        assert.is_true(fields[field.name] ~= nil or field.optional, title .. "." .. field.name)
      end
      for name in pairs(fields) do assert.is_true(known[name] or false, title .. "." .. name) end
    end
    session:close()
    sae:close()
    model:close()
  end)

  it("name the fields that an edit may have", function()
    local model, sae = fixtures.load()
    local edit = { sae = sae, feature = 1, op = "set", value = 1 }
    local values = { positions = "all", skip_special = true, when = function() end, keep_error = true, unit = "raw" }
    for _, field in ipairs(found.by_class["moonscope.Edit"].fields) do
      edit[field.name] = edit[field.name] or values[field.name]
      assert.not_nil(edit[field.name], field.name)
    end
    model:forward({ 1275 }, { edits = { edit } })
    edit.nothing = 1
    assert.error_matches(function() model:forward({ 1275 }, { edits = { edit } }) end, "unknown field nothing")
    sae:close()
    model:close()
  end)
end)

describe("every public function", function()
  ---The code of the examples and the other specs, without comments and without texts that only name something.
  local function code()
    local parts = {}
    for _, folder in ipairs { "examples", "tests/lua" } do
      for _, name in ipairs(fixtures.names(folder)) do
        if name:find "%.lua$" and name ~= "annotations_spec.lua" then
          parts[#parts + 1] = fixtures.read(folder .. "/" .. name):gsub("%-%-[^\n]*", "")
        end
      end
    end
    return table.concat(parts, "\n")
  end

  it("is used by an example or a test", function()
    local text, unused = code(), {}
    for _, class in ipairs(found.classes) do
      for _, member in ipairs(class.members) do
        local use = class.is_module and "%f[%w_]" .. class.title .. "%." or "[:.]"
        if not text:find(use .. member.name .. "%f[^%w_]") then unused[#unused + 1] = member.title end
      end
    end
    assert.same({}, unused)
  end)
end)
