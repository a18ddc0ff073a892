// scenarios/tolerance.toml as a tolerance::Policy: one table per "check/dtype". What the numbers mean and why
// they are what they are stands in harness/types/tolerance_rows.h and docs/tolerance.md; this only refuses
// what cannot be meant.
#include "harness/types/error.h"
#include "scenarios/fields.h"
#include "scenarios/load.h"

namespace meshparity::scenarios {

tolerance::Policy load_tolerance() {
  const std::string file = (scenarios_dir() / "tolerance.toml").string();
  const Json json = parse_toml(read_text(file), file);
  const Fields top(json, file);
  tolerance::Policy policy;
  for (const auto& key : top.keys()) {
    const auto slash = key.find('/');
    if (slash == std::string::npos) top.fail(key, "must be named check/dtype, as in \"grads/float64\"");
    if (!is_floating(parse_dtype(key.substr(slash + 1)))) top.fail(key, "is no floating dtype");
    const Fields f = top.table(key);
    f.only({"relative", "condition", "floor", "cap", "doc"});
    if (f.has("relative") == f.has("condition"))
      f.fail("relative", "give relative or condition, one of them");
    const auto at_least_zero = [&](const char* name, double fallback) {
      const double value = f.number_or(name, fallback);
      if (value < 0) f.fail(name, "must not be negative");
      return value;
    };
    tolerance::Row row;
    row.relative = at_least_zero("relative", 0);
    row.condition = at_least_zero("condition", 0);
    row.floor = at_least_zero("floor", 0);
    row.cap = at_least_zero("cap", row.cap);
    row.doc = f.text("doc");
    policy.rows.emplace(key, row);
  }
  if (policy.rows.empty()) throw InputError(file + ": no row");
  return policy;
}

}  // namespace meshparity::scenarios
