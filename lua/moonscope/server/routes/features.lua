-- SPDX-License-Identifier: MIT
---Features, with what was measured of them on the texts of /inference since their SAE was loaded.
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local saes = require "moonscope.server.saes"

local TURN = 8192 -- features that are looked at before others get their turn

---The SAEs that a list is about, which stay while others get their turn; none loaded is an empty list.
local function entries_of(bench, layer)
  bench:check_free()
  local entries = layer and { saes.entry(bench, layer) } or bench:list_saes()
  for _, entry in ipairs(entries) do bench:enter():sae(entry.layer) end
  return entries
end

---Whether a feature's name, its description or a token of it has the text.
local function matcher(bench, search)
  local wanted = search and search:lower() or ""
  if wanted == "" then return function() return true end end
  local function has(text) return text and text:lower():find(wanted, 1, true) end
  return function(entry, index)
    local label, record = entry.labels[index], entry.activity.records[index]
    if has(saes.feature_id(entry.layer, index)) or label and has(label.description) then return true end
    for _, example in ipairs(record and record.examples or {}) do
      if has(bench.model.tokenizer:token(example[2])) then return true end
    end
    return false
  end
end

-- An SAE may have a hundred thousand features: one is a number, and sorting them compares nothing but numbers.
local INDEX_BITS, PLACE_BITS = 32, 31

local function code_of(entry, index) return entry.layer << INDEX_BITS | index end

---The bits of a float of 32, as a whole number that is larger for a larger float.
local function ordinal(x)
  local bits = string.unpack("<i4", string.pack("<f", x))
  return bits < 0 and bits ~ 0x7FFFFFFF or bits
end

local MEASURES = {
  activation = function(record) return ordinal(record.max) end,
  frequency = function(record, entry) return ordinal(record.n / entry.activity.n_tokens) end,
  layer = function() return 0 end,
}

---Those that match, in the order of layers and numbers: those that fired with their measure, and those that
---did not.
local function collect(entries, matches, measure)
  local fired, measures, silent, n = {}, {}, {}, 0
  for _, entry in ipairs(entries) do
    for index = 0, entry.sae.d_sae - 1 do
      if matches(entry, index) then
        local record = entry.activity.records[index]
        local list = record and fired or silent
        list[#list + 1] = code_of(entry, index)
        if record then measures[#fired] = measure(record, entry) end
      end
      n = n + 1
      if n % TURN == 0 then loop.sleep(0) end
    end
  end
  return fired, measures, silent
end

---One that never fired, or of which nothing was measured, is less than any that did.
local function by_measure(fired, measures, silent, descending)
  local keys, order = {}, {}
  for i, measure in ipairs(measures) do keys[i] = (descending and -measure or measure) << PLACE_BITS | i end
  table.sort(keys)
  for i, key in ipairs(keys) do order[i] = fired[key & (1 << PLACE_BITS) - 1] end
  if descending then return table.move(silent, 1, #silent, #order + 1, order) end
  return table.move(order, 1, #order, #silent + 1, silent)
end

---Within a layer always the lowest number first.
local function by_layer(fired, silent, descending)
  local flip = descending and saes.MAX_LAYER << INDEX_BITS or 0
  local keys = table.move(silent, 1, #silent, #fired + 1, fired)
  for i, code in ipairs(keys) do keys[i] = code ~ flip end
  table.sort(keys)
  for i, key in ipairs(keys) do keys[i] = key ~ flip end
  return keys
end

---Says which list it would be: what was measured decides, too.
local function key_of(args, entries)
  local parts = { args.sort_by, args.sort_order }
  for _, entry in ipairs(entries) do
    parts[#parts + 1] = ("%d.%d"):format(entry.activity.serial, entry.activity.version)
  end
  return table.concat(parts, " ") .. " " .. (args.search or "")
end

---Every feature that is asked for, as numbers, in order.
local function order_of(request, entries)
  local args, kept = request.args, request.app.caches.feature
  local key = key_of(args, entries)
  local order = kept:get(key)
  if order then return order end
  local matches, descending = matcher(request.workbench, args.search), args.sort_order == "desc"
  local fired, measures, silent = collect(entries, matches, MEASURES[args.sort_by])
  if args.sort_by == "layer" then
    order = by_layer(fired, silent, descending)
  else
    order = by_measure(fired, measures, silent, descending)
  end
  kept:put(key, order)
  return order
end

local function list_features(request)
  local args, bench = request.args, request.workbench
  local entries, entry_at = entries_of(bench, args.layer_idx), {}
  for _, entry in ipairs(entries) do entry_at[entry.layer] = entry end
  local order, features = order_of(request, entries), json.array {}
  for i = args.offset + 1, math.min(args.offset + args.limit, #order) do
    local layer, index = order[i] >> INDEX_BITS, order[i] & (1 << INDEX_BITS) - 1
    features[#features + 1] = json.ordered(saes.describe(bench, entry_at[layer], index))
  end
  return 200, json.ordered {
    { "features", features }, { "total", #order }, { "hasMore", args.offset + #features < #order },
  }
end

local function analysis(entry, index, known, vector)
  local norm = 0
  for _, x in ipairs(vector) do norm = norm + x * x end
  local tokens = json.array {}
  for i, example in ipairs(known.details) do tokens[i] = example[2][2] end
  return json.ordered {
    { "feature_idx", index }, { "layer_idx", entry.layer }, { "sparsity", known.sparsity },
    { "weight_norm", math.sqrt(norm) }, { "max_activation", known.max }, { "avg_top_activation", known.average },
    { "top_tokens", tokens }, { "top_token_details", known.details }, { "measured_tokens", entry.activity.n_tokens },
  }
end

local function details(request)
  local bench = request.workbench
  bench:check_free()
  local entry, index = saes.feature(bench, request.args.id)
  bench:enter():sae(entry.layer)
  local vector = saes.vector(entry.sae:direction(index))
  local body, of = saes.describe(bench, entry, index), entry.activity:of(index)
  local examples, snippets, average = saes.examples(bench, entry, index)
  local known = {
    details = examples, average = average, max = of and of.max, sparsity = of and 1 - of.frequency,
  }
  body[#body + 1] = { "vector", vector }
  body[#body + 1] = { "detailed_analysis", analysis(entry, index, known, vector) }
  body[#body + 1] = { "contextExamples", snippets }
  if entry.labels[index] then body[#body + 1] = { "imported", entry.labels[index].shown } end
  return 200, json.ordered(body)
end

return {
  { "GET", "/features", list_features, fields = {
    { "layer_idx", "integer", null = true, min = 0, max = saes.MAX_LAYER, also = { "layer" } },
    { "limit", "integer", default = 100, min = 0, max = 1000 },
    { "offset", "integer", default = 0, min = 0, max = (1 << 31) - 1 },
    { "search", "text", null = true, max_length = 1000 },
    { "sort_by", "text", default = "activation", choices = { "activation", "layer", "frequency" } },
    { "sort_order", "text", default = "desc", choices = { "asc", "desc" } },
  } },
  { "GET", "/feature/{id}/details", details, fields = {
    { "id", "text", required = true, in_path = true, max_length = 64 },
  } },
}
