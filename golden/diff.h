// Two files dataset by dataset: what differs, by how much, and what that says about the cause. Used by
// `golden diff` and by `golden regenerate`, which refuses a change nothing explains.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "golden/store.h"

namespace meshparity::golden {

struct DatasetDiff {
  // within: differs, ||got - want||_2 <= bound. unlike: another shape, dtype, kind or text. missing: only in
  // want.
  enum class State { identical, within, outside, missing, extra, unlike };
  std::string path;
  State state = State::identical;
  std::int64_t elements = 0, differing = 0;     // differing: other bits
  double max_abs = 0, norm = 0, want_norm = 0;  // norm = ||got - want||_2
  double bound = 0;
  std::string what;  // one phrase for a person
};

// Largest ||got - want||_2 that counts as rounding, for the dataset at `path`; 0 = bitwise.
using Bounds = std::function<double(const std::string& path, const HostTensor& want)>;

Bounds bitwise_bounds();
// The float64 bounds of docs/tolerance.md as far as they need nothing but the file `want`: logits, logprobs
// and losses 1e-12 relative; gradients (of token_mean, of mtp) 1e-11 * max(||want||, 1e-3 * their norm);
// stepped weights that carried through AdamW (step * lr / eps * gradient bound), at most 1e-9 of the largest
// element each; initial weights 1e-14 relative, because libm's last bit differs between machines; everything
// else bitwise.
Bounds float64_bounds(const Store& want);

// One entry for every path of either file, sorted by path.
std::vector<DatasetDiff> diff(const Store& got, const Store& want, const Bounds& bounds = bitwise_bounds());

// One line per dataset that is not identical (all of them with `everything`), then a line of counts.
std::string diff_text(const std::vector<DatasetDiff>& diffs, bool everything = false);

// Why the new file is not the old one. The first of these that holds is the cause of what follows from it:
// config, train, inputs and weights decide expected values, so numerics alone (expected values outside the
// bounds while everything that decides them is the same) is the change nobody can explain from the files.
struct Change {
  bool identical = false;        // every dataset bitwise
  bool within_rounding = false;  // every dataset identical or within its bound, none missing, none extra
  bool config = false, train = false, inputs = false, weights = false;
  bool lost = false, added = false;  // expected datasets
  bool numerics = false;
  bool explained() const {
    return within_rounding || (!lost && (!numerics || config || train || inputs || weights));
  }
  std::string text;  // lines for a person, each ended by a newline
};
Change explain_change(const Store& old_store, const Store& new_store, const Bounds& bounds);
// With float64_bounds(old_store).
Change explain_change(const Store& old_store, const Store& new_store);

}  // namespace meshparity::golden
