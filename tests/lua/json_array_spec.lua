local json_array = require "evenkeel.json_array"

describe("an array in a JSON text", function()
  for _, case in ipairs {
    { "of two", '{"a":[{"x":1}, {"y":[{}]} ],"b":2}', '{"a":[],"b":2}', { '{"x":1}', '{"y":[{}]}' } },
    { "of none", '{"b":2,"a" : [ ]}', '{"b":2,"a" : []}', {} },
    { "with texts that look like its end", [[{"a":[{"x":"]}\\"},{"y":"\"]"}]}]], '{"a":[]}', { [[{"x":"]}\\"}]], [[{"y":"\"]"}]] } },
    { "that stands deeper is another one", '{"b":{"a":[{}]}}', '{"b":{"a":[{}]}}', nil },
    { "that is no array", '{"a":{"a":[{}]}}', '{"a":{"a":[{}]}}', nil },
    { "in what is no object", "7", "7", nil },
  } do
    it(case[1], function() assert.same({ case[3], case[4] }, { json_array.cut(case[2], "a") }) end)
  end

  for _, case in ipairs {
    { '{"a":[7]}', "a[0]: an object is needed" },
    { '{"a":[{},"x"]}', "a[1]: an object is needed" },
    { '{"a":[[]]}', "a[0]: an object is needed" },
    { '{"a":[null]}', "a[0]: an object is needed" },
    { '{"a":[{}', "not JSON: the text ends among its a" },
    { '{"a":[{"', "not JSON: the text ends among its a" },
  } do
    it("is refused: " .. case[1], function() assert.same({ nil, case[2] }, { json_array.cut(case[1], "a") }) end)
  end
end)
