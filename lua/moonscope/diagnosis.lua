-- SPDX-License-Identifier: MIT
---What measurements of an autoencoder (doctor.lua) mean for its user: findings, each with a level ("ok",
---"warning", "wrong"), what it is about, a message and, where something is to be done, a remedy.
local places = require "moonscope.places"

local M = {}

-- An FVU has to be this much smaller than another before it counts: neighbouring layers are alike, and
-- at Goodfire's layer 19 the neighbours' is 1.3 times the right one's.
local CLEARLY = 0.9
-- Other conventions may fit somewhat better by chance: a larger input fires more features.
local CONVENTION = 0.7
local EXPLAINS_LITTLE = 0.7 -- published SAEs leave 0.03 to 0.5
local UNRELATED = 0.05      -- mean cosine of encoder and decoder rows; chance gives 0 +- 1 / sqrt(d_sae d_model)

local function number(x)
  if x ~= x then return "not a number" end
  return (x >= 1000 and x < 1e6 and "%.0f" or "%.3g"):format(x)
end

---A count with the right form of what is counted.
local function count(n, thing, things)
  return ("%d %s"):format(n, n == 1 and thing or things or thing .. "s")
end

---FVU for comparisons: what is no number explains nothing.
local function rank(fvu) return fvu == fvu and fvu or math.huge end

local function best_of(rows)
  local best = rows[1]
  for _, row in ipairs(rows) do
    if rank(row.fvu) < rank(best.fvu) then best = row end
  end
  return best
end

local function claimed_of(rows)
  for _, place in ipairs(rows) do
    if place.claimed then return place end
  end
end

-- How to say to moonscope that an SAE reads there. A number of a layer keeps the kind of place that the file
-- says (hook; nil: unknown), a name is that place.
local function remedy_for(place, hook)
  local suffix, layer = places.suffix_of(place), places.layer_of(place)
  if hook and suffix == places.suffix_of(hook) then
    return ("load it with --layer %d (in Lua, layer = %d)"):format(layer, layer)
  elseif suffix == "" then
    return ('load it with --layer %s (in Lua, layer = "%s")'):format(place, place)
  end
  return ('convert it, and write "hook": "%s" into its metadata file'):format(place)
end

---"model.layers.2 (the input of layer 3)" where layer 3 was claimed: the convention that is most often mixed up.
local function described(place, claimed)
  local layer = math.tointeger(tonumber(place:match "^model%.layers%.(%d+)$"))
  local other = math.tointeger(tonumber(claimed:match "^model%.layers%.(%d+)$"))
  if layer and other == layer + 1 then return ("%s (the input of layer %d)"):format(place, other) end
  return place
end

local NO_PLACE = "check that the model is the very one that the SAE was trained on (base or instruct, size, version); "
  .. "if it is, fetch the file again and convert it anew"

local function better_convention(report)
  local plain = report.conventions[1]
  local best = best_of(report.conventions)
  if best ~= plain and rank(best.fvu) < CONVENTION * rank(plain.fvu) and best.fvu < 1 then return best, plain end
end

---The place that fits better than the claimed one, and the claimed one on the same tokens. A scan of all places
---comes before the neighbours.
local function better_place(report)
  for _, rows in ipairs { report.scan, report.places } do
    local best, claimed = best_of(rows), claimed_of(rows)
    if rank(best.fvu) < rank(claimed.fvu) then return best, claimed end
  end
end

local function judge_broken(report, add)
  for _, part in ipairs(report.weights.broken) do
    add("wrong", "weights", ("%s: %s with numbers that are not finite, the first is feature %d")
      :format(part.name, count(part.rows, "row"), part.first),
      "the file is damaged or the dtype too narrow: fetch and convert it again, or load it with --sae-dtype f32")
  end
  if report.weights.b_dec_broken then
    add("wrong", "weights", "b_dec has numbers that are not finite", "the file is damaged: fetch and convert it again")
  end
  if report.weights.skip_broken then
    add("wrong", "weights", "the skip connection has numbers that are not finite",
      "the file is damaged: fetch and convert it again")
  end
  local place = claimed_of(report.places)
  if place.broken > 0 then
    add("wrong", "model", ("%s is not finite at %s: the model itself is broken")
      :format(place.place, count(place.broken, "token")),
      "try --precision exact; if that does not help, fetch the model's weights again")
  end
end

local function judge_layer(report, add)
  local claimed = claimed_of(report.places)
  local place, reference = better_place(report)
  local convention, plain = better_convention(report)
  if convention and (not place or place.fvu / reference.fvu > convention.fvu / plain.fvu) then
    add("wrong", "convention", ("%s, the SAE explains %s far better: FVU %s instead of %s")
      :format(convention.name, claimed.place, number(convention.fvu), number(plain.fvu)), convention.remedy)
  elseif place and rank(place.fvu) < CLEARLY * rank(reference.fvu) and place.fvu < 1 then
    add("wrong", "layer", ("the SAE reads %s, not %s: FVU %s there, %s here")
      :format(described(place.place, claimed.place), claimed.place, number(place.fvu), number(reference.fvu)),
      remedy_for(place.place, report.hook))
  elseif rank(claimed.fvu) >= 1 then
    add("wrong", "model", ("no place in this model fits: FVU %s at %s; the mean of the stream explains as much as "
      .. "the SAE where it is 1 or more"):format(number(claimed.fvu), claimed.place), NO_PLACE)
  elseif place then
    add("warning", "layer", ("%s fits a little better than %s: FVU %s and %s"):format(place.place, claimed.place,
      number(place.fvu), number(reference.fvu)), "compare on a longer text: --text FILE")
  elseif claimed.fvu > EXPLAINS_LITTLE then
    add("warning", "layer", ("%s fits best, but the SAE explains little of it: FVU %s"):format(claimed.place,
      number(claimed.fvu)), "try a text of the kind that the SAE was trained on: --text FILE")
  else
    add("ok", "layer", ("%s fits best: FVU %s"):format(claimed.place, number(claimed.fvu)))
  end
end

local function judge_hook(report, add)
  if report.hook then return end
  local place = claimed_of(report.places).place
  add("warning", "layer", ("nobody said which layer the SAE reads; %s fits best"):format(place), remedy_for(place, nil))
end

local function judge_activation(report, add)
  local l0, d_model = claimed_of(report.places).l0, report.d_model
  local text = ("%s: %s of %d features fire per token"):format(report.activation, number(l0), report.d_sae)
  local published = report.published_l0
  if published then text = text .. (" (published: %s)"):format(number(published)) end
  if report.activation == "gelu" then
    add("ok", "activation", text .. ": with gelu all do")
  elseif l0 == 0 then
    add("wrong", "activation", "no feature ever fires", "the stream may have to be scaled first, or the threshold "
      .. "is of another scale: convert the SAE in the format that it was published in")
  elseif l0 > d_model then
    add("wrong", "activation", text .. ", more than the stream has dimensions", "the layer, the model or the "
      .. "activation is not the SAE's: see the other findings; an SAE with top-k or thresholds needs them")
  elseif l0 > d_model / 4 then
    add("warning", "activation", text .. ": hardly sparse", "see the other findings; an SAE with top-k or thresholds "
      .. "needs them")
  elseif published and (l0 > 2 * published or l0 < published / 2) then
    add("warning", "activation", text, "try a text of the kind that the SAE was trained on: --text FILE")
  else
    add("ok", "activation", text)
  end
end

-- What was given with --input-scale, beside what the stream asks for.
local function judge_scale(report, add)
  local scale = report.input_scale
  if not scale then return end
  local measured = math.sqrt(report.d_model) / claimed_of(report.places).mean_norm
  local text = ("the input is multiplied by %s; sqrt(d_model) / the stream's mean norm is %s"):format(number(scale),
    number(measured))
  if scale > 2 * measured or scale < measured / 2 then
    add("warning", "scale", text, ("load it with --input-scale %.6g (in Lua, input_scale = %.6g)"):format(measured,
      measured))
  else
    add("ok", "scale", text)
  end
end

local function judge_weights(report, add)
  local norms, w = report.weights.decoder_norms, report.weights
  if #w.broken > 0 then return end
  local text = ("decoder norms: mean %s, from %s to %s"):format(number(norms.mean), number(norms.min),
    number(norms.max))
  if norms.zero > 0 then
    text = text .. ("; %s 0: an edit of such a feature does nothing"):format(
      count(norms.zero, "is", "are"))
  end
  if norms.zero_firing > 0 then
    add("warning", "weights", text .. ("; %s on this text"):format(count(norms.zero_firing, "fires", "fire")),
      "encoder and decoder may be of different files: fetch and convert the SAE again")
  elseif not w.tied and not report.output and math.abs(w.cosine) < UNRELATED then
    local fits = claimed_of(report.places).fvu < EXPLAINS_LITTLE
    add(fits and "warning" or "wrong", "weights",
      ("encoder and decoder rows have nothing in common (mean cosine %s): one of the two is transposed, in another "
        .. "order, or of another file"):format(number(w.cosine)), "fetch and convert the SAE again, in its own format")
  else
    add("ok", "weights", text)
  end
end

local function judge_dead(report, add)
  local dead = report.dead
  local text = ("%s of %d never fire on %d tokens"):format(count(dead.features, "feature"), report.d_sae,
    report.tokens)
  -- enough occasions that a living feature would have had one
  local enough = claimed_of(report.places).l0 * report.tokens > 20 * report.d_sae
  if enough and dead.share > 0.5 then
    add("warning", "dead", text, "try a text of the kind that the SAE was trained on: --text FILE")
  else
    add("ok", "dead", text .. (enough and "" or " (too few to call them dead)"))
  end
end

local function judge_special(report, add)
  local s = report.special
  if s.tokens == 0 then return end
  add("ok", "special", ("%s (BOS and the like) left out of all other numbers: norm %s against %s, %.0f%% of the "
    .. "squared norm, L0 %s"):format(count(s.tokens, "special token"), number(s.mean_norm),
    number(claimed_of(report.places).mean_norm), 100 * s.share, number(s.l0)))
end

local function judge_dtypes(report, add)
  local mine, other = report.dtypes[1], report.dtypes[2]
  if not other then return end
  local text = ("%s: FVU %s, L0 %s; %s: FVU %s, L0 %s"):format(mine.dtype, number(mine.fvu), number(mine.l0),
    other.dtype, number(other.fvu), number(other.l0))
  local worse = rank(mine.fvu) > 1.05 * rank(other.fvu) or math.abs(mine.l0 - other.l0) > 0.1 * other.l0
  if mine.dtype ~= "f32" and worse then
    add("warning", "dtype", text, "load it with --sae-dtype f32")
  else
    add("ok", "dtype", text)
  end
end

local function judge_file(report, add)
  for _, difference in ipairs(report.file.differences) do
    add("warning", "file", ("%s: found %s, expected %s"):format(difference.what, difference.found,
      difference.expected), difference.remedy)
  end
  local compared = report.file.compared
  if #compared > 0 and #report.file.differences == 0 then
    add("ok", "file", ("as published: %s (%s)"):format(report.file.known, table.concat(compared, ", ")))
  end
end

local SEVERITY = { ok = 0, warning = 1, wrong = 2 }

---Findings in the order in which they are to be read, and the worst of their levels.
---@param report table  what doctor.lua measured
---@return {level: "ok"|"warning"|"wrong", about: string, message: string, remedy: string?}[]
---@return "ok"|"warning"|"wrong"
function M.of(report)
  local findings, verdict = {}, "ok"
  local function add(level, about, message, remedy)
    findings[#findings + 1] = { level = level, about = about, message = message, remedy = remedy }
    if SEVERITY[level] > SEVERITY[verdict] then verdict = level end
  end
  judge_file(report, add)
  judge_broken(report, add)
  if verdict ~= "wrong" then -- else every number below is broken as well
    for _, judge in ipairs { judge_hook, judge_layer, judge_activation, judge_scale, judge_weights, judge_dead,
      judge_special, judge_dtypes } do
      judge(report, add)
    end
  end
  return findings, verdict
end

return M
