local fake_ngx = require "support.fake_ngx"

describe("the access log", function()
  local access_log
  setup(function()
    fake_ngx.install()
    access_log = require "evenkeel.access_log"
  end)

  -- names of files → their contents, and what the rotation did to them
  local function rotate(files, size)
    local rotated = access_log.rotate("a.log", function(path) return files[path] and size end, function(from, to)
      if not files[from] then return nil, "no such file" end
      files[to], files[from] = files[from], nil
      return true
    end)
    return rotated, files
  end

  it("stays as long as it is small", function()
    local files = { ["a.log"] = "now" }
    assert.same({ false, { ["a.log"] = "now" } }, { rotate(files, 64 * 1024 * 1024) })
    assert.is_false((rotate({}, nil)))
  end)

  it("that has grown moves on, and of the old ones five stay", function()
    local files, made = {}, 0
    for _ = 1, 9 do
      made = made + 1
      files["a.log"] = made
      assert.is_true((rotate(files, 64 * 1024 * 1024 + 1)))
    end
    assert.same({ ["a.log.1"] = 9, ["a.log.2"] = 8, ["a.log.3"] = 7, ["a.log.4"] = 6, ["a.log.5"] = 5 }, files)
  end)
end)
