#include "harness/types/weight_set.h"

#include <algorithm>

namespace meshparity {

std::ptrdiff_t WeightSet::find(const std::string& name) const {
  const auto at = std::lower_bound(entries_.begin(), entries_.end(), name,
                                   [](const Entry& entry, const std::string& n) { return entry.name < n; });
  return at == entries_.end() || at->name != name ? -1 : at - entries_.begin();
}

void WeightSet::set_entries(std::vector<Entry> entries) {
  entries_ = std::move(entries);
  for (std::size_t i = 1; i < entries_.size(); ++i) {
    if (entries_[i - 1].name > entries_[i].name)
      throw RunError("weights of " + origin_ + " are not in the order of names");
    if (entries_[i - 1].name == entries_[i].name)
      throw InputError(origin_, entries_[i].name,
                       "stands there twice: as " + entries_[i - 1].stored + " and as " + entries_[i].stored);
  }
}

}  // namespace meshparity
