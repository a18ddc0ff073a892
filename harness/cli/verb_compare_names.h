// Names in a dump are anybody's: which paths the schema knows, in which order they are judged, and what a
// name that is none may mean.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <tuple>

#include "harness/cli/bounds.h"
#include "harness/types/model_config.h"

namespace meshparity::cli {

// The check and the tensor of a path of the schema below /expected, or nothing.
std::optional<KeyName> known_name(const std::string& key);

// The parameter that a name of grads or weights belongs to.
std::string parameter_of(const KeyName& name);

// Order of checks, then of steps, then of parameters as the model holds them.
class DumpOrder {
 public:
  // Without a config every name is a parameter's.
  explicit DumpOrder(const std::optional<ModelConfig>& config);
  std::tuple<int, int, int, std::string> of(const std::string& key) const;
  bool is_parameter(const std::string& name) const { return index_.empty() || index_.count(name); }
  // What may be meant by a name that is no parameter: wrappers and multimodal classes put words into names.
  // Empty: nothing.
  std::string parameter_meant_by(const std::string& name) const;

 private:
  std::map<std::string, int> index_;
};

}  // namespace meshparity::cli
