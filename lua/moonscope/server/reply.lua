-- SPDX-License-Identifier: MIT
---What a handler returns beside a plain table, which becomes JSON.
local json = require "moonscope.json"

local M = {}

local getmetatable = getmetatable

---@class moonscope.Reply
---@field kind "events"|"bytes"|"file"|"constant"

---Server-sent events. `produce(send)` runs after the head has gone out, in the request's task:
---send(data, event) writes one, a table as JSON, a text as it is, and throws once the client is gone. An
---error that produce throws becomes a last event "error".
---@param produce fun(send: fun(data: table|string, event: string?))
---@return moonscope.Reply
function M.events(produce) return setmetatable({ kind = "events", produce = produce }, M) end

---Bytes as they are.
---@param content string
---@param content_type string
---@param filename string?  to be saved under
---@return moonscope.Reply
function M.bytes(content, content_type, filename)
  return setmetatable({ kind = "bytes", content = content, content_type = content_type, filename = filename }, M)
end

---A file's bytes, however large.
---@param path string  trusted, or from request.paths
---@param content_type string
---@param filename string?
---@return moonscope.Reply
function M.file(path, content_type, filename)
  return setmetatable({ kind = "file", path = path, content_type = content_type, filename = filename }, M)
end

---The same of an open file, which may have no name any more. The reply closes it.
---@param fd integer
---@param content_type string
---@param filename string?
---@return moonscope.Reply
function M.descriptor(fd, content_type, filename)
  return setmetatable({ kind = "file", fd = fd, content_type = content_type, filename = filename }, M)
end

---A table that never changes, so that it is encoded once; for what is asked for all the time.
---@param body table
---@return moonscope.Reply
function M.constant(body)
  return setmetatable({ kind = "constant", body = body, text = json.encode(body), prepared = {} }, M)
end

---@param value any
---@return boolean
function M.is_reply(value) return getmetatable(value) == M end

return M
