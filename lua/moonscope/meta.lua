---@meta _
-- SPDX-License-Identifier: MIT
-- The types of moonscope for editors (LuaLS) and for help(): what C registers, what is made in loops, and the
-- fields of objects. Functions written in Lua are annotated where they stand; lua/moonscope/init.lua says whose
-- functions `require "moonscope"` has. Nothing here runs. Dims, rows and positions count from 1; features, layers
-- and token ids from 0.

---@class moonscope
---@field version string
local ms = {}

---The devices of this machine.
---@return string[]  "cpu", "cuda:0", ...
function ms.devices() end

---Threads to compute with; one per core unless it is set.
---@param n integer  from 1 to 1024
function ms.set_threads(n) end

---The CPU's instruction set that the kernels use; with a name, another one from now on.
---@param name? string  one of instruction_sets()
---@return string
function ms.instruction_set(name) end

---Those that this CPU has, the best first; the last is the plain C that all others are compared with.
---@return string[]
function ms.instruction_sets() end

---Numbers in the memory of a device, row-major or a view of such. A method gives a new tensor; one whose name ends
---in _ changes its own. Floats of any dtype take part in arithmetic, which is done in f32 and gives f32; shapes
---broadcast.
---@class moonscope.Tensor
---@operator add(moonscope.Tensor|number): moonscope.Tensor
---@operator sub(moonscope.Tensor|number): moonscope.Tensor
---@operator mul(moonscope.Tensor|number): moonscope.Tensor
---@operator div(moonscope.Tensor|number): moonscope.Tensor
---@operator unm: moonscope.Tensor
---@operator len: integer
local Tensor = {}

---Closes it for Lua at once; its memory is freed when no view and no job holds it.
function Tensor:close() end

---Its dims.
---@return integer[]  one number for each dim; {} for a single number
function Tensor:shape() end

---The size of one dim.
---@param dim integer
---@return integer
function Tensor:size(dim) end

---How many elements it has.
---@return integer
function Tensor:numel() end

---What its elements are.
---@return moonscope.Dtype
function Tensor:dtype() end

---Where its memory is.
---@return string  "cpu", "cuda:0"
function Tensor:device() end

---A part of it along a dim, as a view.
---@param dim integer
---@param start integer  the first index of the part
---@param length integer
---@return moonscope.Tensor
function Tensor:narrow(dim, start, length) end

---What is at one index of a dim, as a view without that dim.
---@param dim integer
---@param index integer
---@return moonscope.Tensor
function Tensor:select(dim, index) end

---select(1, index): a row of a matrix, as a view.
---@param index integer
---@return moonscope.Tensor
function Tensor:row(index) end

---Two dims exchanged, as a view.
---@param a integer
---@param b integer
---@return moonscope.Tensor
function Tensor:transpose(a, b) end

---The transpose of a matrix, as a view.
---@return moonscope.Tensor
function Tensor:t() end

---A copy, row-major.
---@return moonscope.Tensor
function Tensor:clone() end

---Its numbers as nested tables; of a single number, that number.
---@return number|integer|boolean|table
function Tensor:totable() end

---Its elements as bytes, little-endian, row-major.
---@return string
function Tensor:to_string() end

---Whether dtype, shape and all bits are the same.
---@param u moonscope.Tensor
---@return boolean
function Tensor:equal(u) end

---Each element with the other sign.
---@return moonscope.Tensor
function Tensor:neg() end

---Each element without its sign.
---@return moonscope.Tensor
function Tensor:abs() end

---e to the power of each element.
---@return moonscope.Tensor
function Tensor:exp() end

---The natural logarithm of each element.
---@return moonscope.Tensor
function Tensor:log() end

---The square root of each element.
---@return moonscope.Tensor
function Tensor:sqrt() end

---Each element, or 0 where it is below 0.
---@return moonscope.Tensor
function Tensor:relu() end

---The larger of two elements each; NaN wins.
---@param u moonscope.Tensor|number
---@return moonscope.Tensor
function Tensor:maximum(u) end

---The sum of all elements (rank 0), or along a dim, which goes away.
---@param dim? integer
---@return moonscope.Tensor
function Tensor:sum(dim) end

---The largest of all elements (rank 0), or along a dim, which goes away; NaN wins.
---@param dim? integer
---@return moonscope.Tensor
function Tensor:max(dim) end

---Where the largest is, counted from 0 as features and token ids are: of all elements, or along a dim, which goes
---away. The first of equals.
---@param dim? integer
---@return moonscope.Tensor  i64
function Tensor:argmax(dim) end

---Each row (the last dim) as probabilities.
---@return moonscope.Tensor
function Tensor:softmax() end

---The k largest along the last dim, descending, and where they are, counted from 0.
---@param k integer
---@return moonscope.Tensor values
---@return moonscope.Tensor indices  i64
function Tensor:topk(k) end

---The product of matrices and vectors.
---@param u moonscope.Tensor
---@return moonscope.Tensor
function Tensor:matmul(u) end

---A file of named tensors, open: ms.open makes it. Only its headers have been read.
---@class moonscope.Checkpoint
local Checkpoint = {}

---Its file, or the folder of its files.
---@return string
function Checkpoint:path() end

---How it is written.
---@return "safetensors"|"pth"|"npz"|"npy"
function Checkpoint:format() end

---Bytes of its file.
---@return integer?  nil where it has several files
function Checkpoint:size() end

---Names of its tensors, sorted.
---@return string[]
function Checkpoint:names() end

---What is known of a tensor without reading it.
---@param name string
---@return {dtype: string, shape: integer[], nbytes: integer}?  nil where there is none of this name
function Checkpoint:info(name) end

---The texts that the file holds beside its tensors.
---@return table<string, string>
function Checkpoint:metadata() end

---Closes it; tensors that came from it live on.
function Checkpoint:close() end

---Text to token ids and back: ms.load_tokenizer makes it, and a model has one.
---@class moonscope.Tokenizer
---@field chat_template string?  of tokenizer_config.json
local Tokenizer = {}

---The bytes of a token, which need not be whole characters.
---@param id integer
---@return string
function Tokenizer:token(id) end

---The token with exactly these bytes, special or not.
---@param bytes string
---@return integer?
function Tokenizer:id(bytes) end

---Whether a token is a mark such as <|eot_id|>.
---@param id integer
---@return boolean
function Tokenizer:is_special(id) end

---The token that begins a text, where the file names one.
---@return integer?
function Tokenizer:bos_id() end

---How many tokens there are.
---@return integer
function Tokenizer:n_vocab() end

---Frees its tables, once no decoder uses them.
function Tokenizer:close() end

---Text of ids that come one by one: tokenizer:stream makes it.
---@class moonscope.Decoder
local Decoder = {}

---The text that an id completes.
---@param id integer
---@return string  the text that is complete by now, maybe ""
function Decoder:feed(id) end

---Ends the text.
---@return string  what is left: the start of a character that never came whole, or ""
function Decoder:finish() end

---Lets go of its tokenizer.
function Decoder:close() end

---A Llama with its weights: ms.load_model makes it.
---@class moonscope.Llama
---@field config moonscope.Config
---@field tokenizer moonscope.Tokenizer?  where the folder has a tokenizer.json
---@field path string  its folder
local Llama = {}

---Where its weights are.
---@return string  "cpu", "cuda:0"
function Llama:device() end

---What its weights are.
---@return moonscope.Dtype
function Llama:dtype() end

---How it multiplies in a prefill.
---@return "fast"|"exact"
function Llama:precision() end

---How many tokens a session has room for.
---@return integer
function Llama:context() end

---Frees its weights, once no session and no job uses them.
function Llama:close() end

---What config.json says of a model.
---@class moonscope.Config
---@field n_vocab integer
---@field d_model integer  width of the residual stream
---@field d_ff integer  width of the MLP
---@field n_layers integer
---@field n_heads integer
---@field n_kv_heads integer
---@field d_head integer
---@field n_ctx integer  tokens that it was made for
---@field norm_eps number
---@field rope_theta number
---@field tied boolean  the embedding is the output matrix too
---@field bos integer?
---@field eos integer[]

---A sequence of tokens and what the model keeps of it (the KV cache): model:session makes it.
---@class moonscope.Session
---@field model moonscope.Llama
---@field n_generated integer  tokens fed by step since the last prefill
---@field chunk integer  tokens of a prefill that are computed at once, where no option says
local Session = {}

---How many tokens were fed.
---@return integer
function Session:length() end

---How many tokens there is room for.
---@return integer
function Session:context() end

---Frees the cache.
function Session:close() end

---A sparse autoencoder: ms.load_sae makes it.
---@class moonscope.Sae
---@field layer integer?  nil when unknown
---@field hook string?  the place that it reads, "model.layers.19"; nil when unknown
---@field output string?  of a transcoder: the place that it predicts
---@field d_sae integer  how many features it has
---@field d_model integer
---@field k integer?  features that fire at a position, of activation topk
---@field format string  of its file
---@field activation string  "relu", "topk", "jumprelu", ...
---@field unit "raw"|"normalised"  "normalised": features are scaled by what their position was divided by
---@field subtract_b_dec boolean  the decoder's bias is taken off the input
---@field input_scale number?  what the input is multiplied by
---@field path string  of the weights
---@field own_layer integer?  what file or list say, whatever was asked for
---@field exact boolean  encode multiplies in f32, as the model beside it does
---@field options table  it was loaded with, without the model
local Sae = {}

---Where its weights are.
---@return string  "cpu", "cuda:0"
function Sae:device() end

---What its weights are.
---@return moonscope.Dtype
function Sae:dtype() end

---Frees its weights, once no job uses them.
function Sae:close() end

---The features that fire at each of some positions: sae:encode makes it. Only what is not 0 is kept.
---@class moonscope.Features
---@operator len: integer
local Features = {}

---The features that fire at a position, by index.
---@param number integer  position, from 1
---@return {index: integer, activation: number}[]
function Features:row(number) end

---How many fire at a position.
---@param number integer  position, from 1
---@return integer
function Features:count(number) end

---How strongly a feature fires at a position.
---@param number integer  position, from 1
---@param feature integer  from 0
---@return number  0 where it is silent
function Features:activation(number, feature) end

---How many features fire at a position, on average.
---@return number
function Features:l0() end

---Frees them, once no job uses them.
function Features:close() end
