-- The body of the request that is being served, whether nginx holds it in memory or has put it into a file.

local M = {}

--- @return text; "" for none. nginx has refused what is larger than client_max_body_size.
function M.read()
  ngx.req.read_body()
  local body = ngx.req.get_body_data()
  if body then return body end
  local path = ngx.req.get_body_file()
  local file = path and io.open(path, "rb")
  if not file then return "" end
  body = file:read("*a")
  file:close()
  return body
end

return M
