-- SPDX-License-Identifier: MIT
---How much of a stream an autoencoder explains, added up chunk by chunk, so that memory stays bounded.
---
---  FVU = sum ||y - xhat||^2 / sum ||y - mean y||^2
---
---where y is the stream x that it reads; of a transcoder, what it predicts. The fraction of variance
---unexplained: 0 is perfect, 1 no better than the mean of y (1 - R^2;
---"normalized MSE" in Gao et al. 2024, "Scaling and evaluating sparse autoencoders").
---L0: how many features are not 0, per token.
local M = {}

---The sum of all squares, as a number.
local function squared(t)
  local norm <close> = t:norm()
  return norm:item() ^ 2
end

local Stream = {}
Stream.__index = Stream

---Adds rows x [n_tok][d_model]. Sums of squares around a mean are joined as in Chan, Golub, LeVeque
---1983, "Algorithms for computing the sample variance": subtracting n mean^2 at the end would cancel.
function Stream:add(x)
  local n = x:size(1)
  local mean = x:mean(1)
  local centred <close> = x - mean
  local norms <close> = x:norm(2)
  for _, norm in ipairs(norms:totable()) do
    self.norm_sum, self.square_sum = self.norm_sum + norm, self.square_sum + norm ^ 2
    if norm ~= norm or norm == math.huge then self.n_broken = self.n_broken + 1 end
  end
  self.spread = self.spread + squared(centred)
  if self.mean then
    local old <close> = self.mean
    local step <close> = mean - old
    mean:close()
    self.spread = self.spread + squared(step) * self.n * n / (self.n + n)
    local part <close> = step * (n / (self.n + n))
    mean = old + part
  end
  self.mean, self.n = mean, self.n + n
end

---The mean of ||x||.
function Stream:mean_norm() return self.norm_sum / self.n end

---What is known of the rows of a stream: n, spread (sum ||x - mean x||^2), square_sum (sum ||x||^2),
---n_broken (rows with a number that is not finite).
local function new_stream()
  return setmetatable({ n = 0, spread = 0, norm_sum = 0, square_sum = 0, n_broken = 0 }, Stream)
end

local ROWS = 64         -- tokens at a time
local ENOUGH = 1 << 21  -- activations: where an SAE that does not belong fires densely, decoding costs far more than
                        -- encoding, and a few tokens tell as much as many

local Fit = {}
Fit.__index = Fit

local function add_rows(self, x, y)
  local features, xhat = self.read(x)
  local guard <close> = features
  local rest <close> = (y or x) - xhat
  xhat:close()
  self.stream:add(x)
  if y then self.target:add(y) end
  self.error, self.active = self.error + squared(rest), self.active + features:l0() * #features
  if not self.counts then return end
  local tally <close> = features:tally()
  self.counts:add_(tally)
end

---Adds rows x [n_tok][d_model] and, of a transcoder, what they are to be decoded to; the rest of them is left out
---once there are enough activations.
---@param x userdata
---@param y userdata?  of the same shape
function Fit:add(x, y)
  for first = 1, x:size(1), ROWS do
    if self.active >= ENOUGH then return end
    local n = math.min(ROWS, x:size(1) - first + 1)
    local rows <close> = x:narrow(1, first, n)
    local targets <close> = y and y:narrow(1, first, n)
    add_rows(self, rows, targets)
  end
end

---How many rows were added.
function Fit:n() return self.stream.n end

function Fit:fvu() return self.error / self.target.spread end

---||y - xhat|| / ||y||
function Fit:relative_error() return math.sqrt(self.error / self.target.square_sum) end

function Fit:l0() return self.active / self.stream.n end

---@param read fun(x): userdata, userdata  the features of x and what they stand for
---@param transcodes boolean?  whether `add` is given what the rows are to be decoded to
---@param counts userdata?  [d_sae], to which is added at how many rows each feature fires
function M.new(read, transcodes, counts)
  local stream = new_stream()
  return setmetatable({
    read = read, stream = stream, target = transcodes and new_stream() or stream, error = 0, active = 0,
    counts = counts,
  }, Fit)
end

return M
