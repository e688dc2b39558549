-- Every error that Evenkeel itself answers, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}.
-- Messages name the thing and the way out and never carry a secret or an internal address.

local cjson = require "cjson.safe"

local M = {}

local TYPE_BY_STATUS = {
  [400] = "invalid_request_error", [401] = "authentication_error", [403] = "permission_error",
  [404] = "invalid_request_error", [405] = "invalid_request_error", [408] = "invalid_request_error",
  [413] = "invalid_request_error", [415] = "invalid_request_error", [429] = "rate_limit_error",
}

--- The JSON text of an error. `param` is the faulty member of the request, if one is to blame.
function M.body(status, code, message, param)
  return cjson.encode {
    error = {
      message = message,
      type = TYPE_BY_STATUS[status] or (status < 500 and "invalid_request_error" or "server_error"),
      param = param or cjson.null,
      code = code,
    },
  }
end

--- Answer with an error and end the request; for phases that may produce output.
function M.send(status, code, message, param)
  local body = M.body(status, code, message, param)
  ngx.status = status
  local header = ngx.header
  header["Content-Type"] = "application/json"
  header["Content-Length"] = #body
  ngx.print(body)
  return ngx.exit(ngx.HTTP_OK)
end

return M
