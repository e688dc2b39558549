std = "ngx_lua"
max_line_length = 140
exclude_files = { ".evenkeel/**", "**/bin/**", "**/obj/**" }
files["tests/lua"] = { std = "ngx_lua+busted" }
