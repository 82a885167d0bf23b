-- SPDX-License-Identifier: MIT
---What a request is refused with: a status, a code for programs, one line for people, the field that is
---meant. Handlers throw it (`errors.refuse`); what else they throw is a 500.
local core = require "moonscope.core"
local json = require "moonscope.json"

local M = {}

---Every code there is; stable.
M.CODES = {
  EINVAL = "a field, a path or the query is wrong", EFORMAT = "not in the format expected: JSON, a checkpoint",
  EHEADER = "the request's head is malformed or ambiguous", EHOST = "the Host is none of the server's",
  EORIGIN = "a page of another site", ETOKEN = "the token is missing or wrong", EMEDIA = "a body that is not JSON",
  ETOOBIG = "the body is too large", EMETHOD = "the route has other methods", ENOENT = "no such thing",
  EEXIST = "there is one already", ENOMODEL = "no model is loaded", ELOADING = "a model is being loaded",
  EMODEL = "the model went while the answer ran", EBUSY = "too much at once", ESHUTDOWN = "the server ends",
  ECANCELED = "it was cancelled", EUNSUPPORTED = "understood, but there is no such thing yet",
  ESHAPE = "shapes do not fit", EDTYPE = "a dtype does not fit", EDEVICE = "a device failed or is missing",
  ELOST = "a fault took the device: the server starts again",
  ENOMEM = "not enough memory", ERANGE = "out of range", ECONTEXT = "the context is full",
  ECLOSED = "it was closed", ENET = "the Hub cannot be reached", EHASH = "not the bytes that the Hub told of",
  EACCES = "the Hub refuses access; or a link leads out of the data folders", EIO = "reading or writing failed",
  EINTERNAL = "a mistake of the server's; see the log",
}

---@class moonscope.Refusal
---@field status integer
---@field code string  stable: "EINVAL", "ENOMODEL", ...
---@field detail string|table  one line; for a 422 the list of {loc, msg, type}
---@field field string?
---@field retry_after integer?  seconds
---@field headers string[]?  further ones: { name, value, ... }
local Refusal = {}
Refusal.__index = Refusal
Refusal.__name = "moonscope.Refusal"

function Refusal:__tostring()
  return ("%d %s: %s"):format(self.status, self.code, self:text())
end

---The detail in one line.
function Refusal:text()
  if type(self.detail) == "string" then return self.detail end
  local lines = {}
  for i, entry in ipairs(self.detail) do
    lines[i] = ("%s: %s"):format(table.concat(entry.loc, ".", #entry.loc > 1 and 2 or 1), entry.msg)
  end
  return table.concat(lines, "; ")
end

---@param refusal moonscope.Refusal
---@return moonscope.Refusal
function M.new(refusal) return setmetatable(refusal, Refusal) end

---Throws a refusal.
---@param status integer
---@param code string
---@param detail string
---@param field string?
---@param more table?  further fields of the refusal
function M.refuse(status, code, detail, field, more)
  local refusal = M.new { status = status, code = code, detail = detail, field = field }
  for key, value in pairs(more or {}) do refusal[key] = value end
  error(refusal, 0)
end

---@param value any
---@return boolean
function M.is_refusal(value) return getmetatable(value) == Refusal end

---Status for what opening, loading and parsing return as their third value.
local STATUS = {
  ENOENT = 404, EEXIST = 409, ENOMEM = 507, EIO = 500, ECANCELED = 409, EDEVICE = 503, ELOST = 503, EACCES = 403,
  ENET = 502, EHASH = 502,
}

---Throws what `nil, message, code` tell: the caller's fault (400) unless the code says otherwise.
---@param message string
---@param code string
---@param field string?
function M.refuse_failure(message, code, field)
  M.refuse(STATUS[code] or 400, code, json.text(message), field)
end

-- What the core may throw at any time, though nobody did anything wrong.
local UNLUCKY = { ENOMEM = true, EDEVICE = true, ELOST = true }

---The refusal for something thrown: a refusal itself, or a device's failure. nil for a mistake of ours.
---@param message any
---@return moonscope.Refusal?
function M.of_thrown(message)
  if M.is_refusal(message) then return message end
  local code = core.code_of(message)
  if not UNLUCKY[code] then return nil end
  return M.new { status = STATUS[code], code = code, detail = json.text(message) }
end

---@param where thread|string  a task that failed, or its traceback
---@return string
function M.traceback(where) return type(where) == "thread" and debug.traceback(where) or where end

---value, or the refusal for `nil, message, code`.
function M.check(value, message, code)
  if value == nil or value == false and message then M.refuse_failure(message, code or "EIO") end
  return value
end

---FastAPI's form: `problems` is a list of {loc, msg, type}.
---@param problems table[]
---@return moonscope.Refusal
function M.invalid(problems)
  local loc = problems[1].loc
  local last = #loc
  while type(loc[last]) ~= "string" do last = last - 1 end -- a number is no field, but the place in one
  return M.new { status = 422, code = "EINVAL", detail = problems, field = loc[last] }
end

---What an error that no handler expected becomes. Its text stays in the log.
---@param id string  of the request, to find it there
---@return moonscope.Refusal
function M.internal(id)
  return M.new { status = 500, code = "EINTERNAL", detail = "internal error; the log has it under id " .. id, id = id }
end

local OPENAI_TYPES = { [401] = "authentication_error", [403] = "permission_error", [429] = "rate_limit_error" }

local function openai_body(refusal)
  local kind = OPENAI_TYPES[refusal.status] or refusal.status >= 500 and "server_error" or "invalid_request_error"
  return { error = json.ordered {
    { "message", refusal:text() }, { "type", kind }, { "param", refusal.field }, { "code", refusal.code },
    { "id", refusal.id },
  } }
end

local function plain_body(refusal)
  local detail = refusal.detail
  if type(detail) == "table" then
    local list = json.array {}
    for i, problem in ipairs(detail) do
      list[i] = json.ordered { { "loc", json.array(problem.loc) }, { "msg", problem.msg }, { "type", problem.type } }
    end
    detail = list
  end
  local body = { { "detail", detail }, { "code", refusal.code } }
  if refusal.field then body[#body + 1] = { "field", refusal.field } end
  if refusal.id then body[#body + 1] = { "id", refusal.id } end
  return json.ordered(body)
end

---Status, body and headers of a refusal.
---@param refusal moonscope.Refusal
---@param openai boolean?  in the form of the OpenAI API, which has no 422
---@return integer status
---@return table body
---@return string[]? headers
function M.answer(refusal, openai)
  local headers = refusal.headers
  if refusal.retry_after then
    headers = { "Retry-After", tostring(refusal.retry_after), table.unpack(headers or {}) }
  end
  if openai then return refusal.status == 422 and 400 or refusal.status, openai_body(refusal), headers end
  return refusal.status, plain_body(refusal), headers
end

return M
