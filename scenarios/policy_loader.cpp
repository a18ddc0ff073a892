// scenarios/policies/*.toml as a PrecisionPolicy: a dtype for every place, none left to be guessed.
#include "harness/types/error.h"
#include "scenarios/fields.h"
#include "scenarios/load.h"
#include "scenarios/paths.h"

namespace meshparity::scenarios {

PrecisionPolicy load_policy(const std::string& name_or_path) {
  const std::string file = find_scenario(name_or_path, "policies", ".toml", "dtype policy").string();
  const Json json = parse_toml(read_text(file), file);
  const Fields top(json, file);
  top.only({"chunk", "dtypes"});
  PrecisionPolicy policy;
  policy.name = std::filesystem::path(file).stem().string();
  policy.chunk = top.whole_or("chunk", policy.chunk);
  const Fields dtypes = top.table("dtypes");
  for (const PlaceInfo& place : kPlaces) {
    const std::string text = dtypes.text(place.name);
    DType dtype = DType::float64;
    try {
      dtype = parse_dtype(text);
    } catch (const InputError&) {
      dtypes.fail(place.name, "'" + text + "' is no dtype; float64, float32, float16, bfloat16");
    }
    if (!is_floating(dtype)) dtypes.fail(place.name, "'" + text + "' is no floating dtype");
    policy.set(place.place, dtype);
  }
  for (const std::string& key : dtypes.keys()) {
    bool known = false;
    for (const PlaceInfo& place : kPlaces) known = known || key == place.name;
    if (!known) dtypes.fail(key, "is no place of a dtype policy");
  }
  return policy;
}

}  // namespace meshparity::scenarios
