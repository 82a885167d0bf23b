-- SPDX-License-Identifier: MIT
---What the environment says about the Hugging Face Hub: the same variables as huggingface_hub's.
local uv = require "luv"

local M = {}

local DEFAULT_ENDPOINT = "https://huggingface.co"
local DEFAULT_TIMEOUT = 10 -- seconds

---A variable's value; nil where it is empty too.
local function variable(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

local TRUE = { ["1"] = true, ON = true, YES = true, TRUE = true }

local function flag(name)
  return TRUE[(variable(name) or ""):upper()] or false
end

---The first of these variables that is true.
local function first_flag(...)
  for _, name in ipairs { ... } do
    if flag(name) then return name end
  end
end

---A path with ~, $NAME and ${NAME} in it.
local function expand(path)
  local home = variable "HOME" or uv.os_homedir()
  path = path:gsub("^~%f[/\0]", function() return home end)
  local function value(name) return os.getenv(name) end -- nil leaves the text as it is
  return (path:gsub("%$([%a_][%w_]*)", value):gsub("%${([%a_][%w_]*)}", value))
end

local function home_folder()
  local home = variable "HF_HOME"
  if home then return expand(home) end
  return expand(variable "XDG_CACHE_HOME" or "~/.cache") .. "/huggingface"
end

local function read_file(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read(65536)
  file:close()
  return text
end

---The token and where it comes from; nil where there is none.
local function find_token(home)
  if flag "HF_HUB_DISABLE_IMPLICIT_TOKEN" then return nil end
  local path = variable "HF_TOKEN_PATH"
  path = path and expand(path) or home .. "/token"
  for _, source in ipairs { "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", path } do
    local text = source == path and read_file(path) or variable(source)
    local token = text and text:gsub("^%s+", ""):gsub("%s+$", "")
    if token and token ~= "" then return token, source end
  end
end

---A number of seconds in milliseconds.
local function timeout(name)
  local text = variable(name)
  local seconds = text and tonumber(text) or not text and DEFAULT_TIMEOUT
  if not seconds or not (seconds > 0 and seconds <= 86400) then
    return nil, ("%s: found '%s', expected seconds above 0"):format(name, text), "EINVAL"
  end
  return math.ceil(seconds * 1000)
end

---@class moonscope.hub.Settings
---@field endpoint string  without a slash at its end
---@field cache string  folder with models--...
---@field token string?
---@field token_source string?  the variable or file that it comes from
---@field token_path string  where a token may be put
---@field offline string?  the variable that forbids to ask the network
---@field head_ms integer  how long to wait for a byte: of metadata
---@field idle_ms integer  and of a file
---@field symlinks boolean
---@field ca_file string?  certificates to trust instead of the system's

---Reads the environment.
---@return moonscope.hub.Settings?
---@return string? message
---@return string? code  "EINVAL"
function M.read()
  local home = home_folder()
  local cache = variable "HF_HUB_CACHE" or variable "HUGGINGFACE_HUB_CACHE"
  local head_ms, idle_ms, message, code
  head_ms, message, code = timeout "HF_HUB_ETAG_TIMEOUT"
  if not head_ms then return nil, message, code end
  idle_ms, message, code = timeout "HF_HUB_DOWNLOAD_TIMEOUT"
  if not idle_ms then return nil, message, code end
  local token, source = find_token(home)
  if token and token:find "[^\33-\126]" then
    return nil, source .. ": holds a character that no token has (a space, a line break, one outside ASCII)", "EINVAL"
  end
  return {
    endpoint = ((variable "HF_ENDPOINT" or DEFAULT_ENDPOINT):gsub("/+$", "")),
    cache = ((cache and expand(cache) or home .. "/hub"):gsub("(.)/+$", "%1")),
    token = token, token_source = source,
    token_path = expand(variable "HF_TOKEN_PATH" or home .. "/token"),
    offline = first_flag("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
    head_ms = head_ms, idle_ms = idle_ms,
    symlinks = not flag "HF_HUB_DISABLE_SYMLINKS",
    ca_file = variable "SSL_CERT_FILE",
  }
end

return M
