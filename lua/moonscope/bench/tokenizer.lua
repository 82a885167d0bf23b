-- SPDX-License-Identifier: MIT
---A tokenizer.json of any size in the form of Llama 3's: the bytes, merges of them, 256 special tokens.
local json = require "moonscope.json"

local M = {}

local N_SPECIAL, LONGEST = 256, 12
local PATTERN = [[(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|]]
  .. [[\s*[\r\n]+|\s+(?!\S)|\s+]]

---The characters that stand for the 256 bytes in such files: printable ones for themselves, the others from U+0100.
local function byte_characters()
  local characters, next_one = {}, 256
  for byte = 0, 255 do
    local printable = byte >= 33 and byte <= 126 or byte >= 161 and byte <= 172 or byte >= 174
    characters[byte + 1] = utf8.char(printable and byte or next_one)
    if not printable then next_one = next_one + 1 end
  end
  return characters
end

---n tokens: bytes, then words of letters, each made of two before it. Also its merges.
local function words(n)
  local tokens, merges, known, parts = byte_characters(), {}, {}, { "\u{120}" }
  for letter in ("etaoinshrdlcumwfgypbvkjxqz"):gmatch "." do parts[#parts + 1] = letter end
  local state = 1
  local function draw()
    state = (state * 1103515245 + 12345) & 0x7fffffff
    return parts[(state >> 8) % #parts + 1]
  end
  while #tokens < n do
    local a, b = draw(), draw()
    local word = a .. b
    if not known[word] and #word <= LONGEST and not b:find("\u{120}", 1, true) then
      known[word] = true
      tokens[#tokens + 1], merges[#merges + 1], parts[#parts + 1] = word, a .. " " .. b, word
    end
  end
  return tokens, merges
end

local function special_tokens(first)
  local list = {}
  for i = 0, N_SPECIAL - 1 do
    local content = i == 0 and "<|begin_of_text|>" or i == 9 and "<|eot_id|>" or ("<|reserved_%d|>"):format(i)
    list[i + 1] = { id = first + i, content = content, single_word = false, lstrip = false, rstrip = false,
      normalized = false, special = true }
  end
  return json.array(list)
end

---@param n_vocab integer  256 of them special
---@return string  the text of a tokenizer.json
function M.text(n_vocab)
  local n = n_vocab - N_SPECIAL
  local tokens, merges = words(n)
  local entries, lines = {}, {}
  for i, token in ipairs(tokens) do entries[i] = ("      %s: %d"):format(json.encode(token), i - 1) end
  for i, merge in ipairs(merges) do lines[i] = ("      %s"):format(json.encode(merge)) end
  local split = { type = "Split", pattern = { Regex = PATTERN }, behavior = "Isolated", invert = false }
  local bytes = { type = "ByteLevel", add_prefix_space = false, trim_offsets = true, use_regex = false }
  return table.concat {
    '{\n  "version": "1.0",\n  "added_tokens": ', json.encode(special_tokens(n)), ',\n  "pre_tokenizer": ',
    json.encode { type = "Sequence", pretokenizers = json.array { split, bytes } },
    ',\n  "decoder": ', json.encode(bytes),
    ',\n  "model": {\n    "type": "BPE",\n    "ignore_merges": true,\n    "vocab": {\n', table.concat(entries, ",\n"),
    '\n    },\n    "merges": [\n', table.concat(lines, ",\n"), "\n    ]\n  }\n}\n",
  }
end

return M
