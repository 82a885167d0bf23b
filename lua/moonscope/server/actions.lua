-- SPDX-License-Identifier: MIT
---Routes that start a job answer when it is done, or at once where the client does not wait.
local json = require "moonscope.json"

local M = {}

---@param job moonscope.ServerJob
---@param wait boolean
---@return integer status
---@return table body
function M.answer(job, wait)
  if not wait then return 202, json.ordered { { "job_id", job.id }, { "status", job.status } } end
  return 200, job:wait()
end

return M
