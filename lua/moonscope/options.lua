-- SPDX-License-Identifier: MIT
---Option tables: a name that nobody reads is a mistake, not a wish.
local M = {}

---Throws for an option that `names` does not have. Returns the options, {} for nil.
---@param who string  the function, for the message
---@param opts table?
---@param names table<string, true>
---@return table
function M.check(who, opts, names)
  if opts == nil then return {} end
  if type(opts) ~= "table" then
    error(("%s: found %s, expected a table of options"):format(who, type(opts)), 3)
  end
  for name in pairs(opts) do
    if not names[name] then
      local known = {}
      for key in pairs(names) do known[#known + 1] = key end
      table.sort(known)
      error(("%s: unknown option %s, expected %s"):format(who, tostring(name), table.concat(known, ", ")), 3)
    end
  end
  return opts
end

---Throws unless a value is a text, such as a path.
---@param who string
---@param what string
---@param value any
function M.check_text(who, what, value)
  if type(value) ~= "string" then
    error(("%s: %s: found %s, expected a text"):format(who, what, type(value)), 3)
  end
end

---A set of names, for `check`.
---@param ... string
---@return table<string, true>
function M.names(...)
  local set = {}
  for _, name in ipairs { ... } do set[name] = true end
  return set
end

return M
