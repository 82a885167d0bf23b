-- SPDX-License-Identifier: MIT
---Jobs: what runs, how far it is, and its end.
local json = require "moonscope.json"
local reply = require "moonscope.server.reply"

local ID = { { "id", "text", required = true, max_length = 64 } }

local function list_jobs(request)
  local jobs = json.array {}
  for i, job in ipairs(request.jobs.list) do jobs[i] = job:describe() end
  return 200, json.ordered { { "jobs", jobs }, { "total", #jobs } }
end

local function show_job(request) return 200, request.jobs:get(request.args.id):describe() end

local function cancel_job(request)
  local job = request.jobs:get(request.args.id)
  local canceled = job:cancel()
  return 200, json.ordered {
    { "success", canceled },
    { "message", canceled and ("Job %s cancelled"):format(job.id) or ("Job %s is %s"):format(job.id, job.status) },
  }
end

local function job_events(request)
  local job = request.jobs:get(request.args.id)
  return 200, reply.events(function(send)
    repeat
      local version = job.version
      send(job:describe(), job.status == "running" and "progress" or job.status)
      job:wait_for_news(version)
    until job.status ~= "running" and job.version == version
  end)
end

return {
  { "GET", "/jobs", list_jobs, at_once = true },
  { "GET", "/jobs/{id}", show_job, fields = ID },
  { "DELETE", "/jobs/{id}", cancel_job, fields = ID },
  { "POST", "/jobs/{id}/cancel", cancel_job, fields = ID },
  { "GET", "/jobs/{id}/events", job_events, fields = ID },
}
