// Planted faults: each re-creates one public silent fault as a decorator over a seam of impl (impl/seams.h).
// To add one: a file <id>.cpp here with one function returning a Fault, and its line in faults.cpp;
// docs/adding-a-fault.md walks through it.
// Faults of the public list that no axis of this version can show stand in not_planted.toml.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "impl/seams.h"

namespace meshparity::faults {

struct Fault {
  std::string id;      // row of docs/faults.md
  std::string what;    // one sentence: the mechanism
  std::string source;  // public report it re-creates
  std::string check;   // check that must show it first
  std::string tensor;  // glob: a tensor one would name; at least one failing tensor matches
  std::string cause;   // glob, or several with '|' between: the cause that the failing block should name
  std::vector<std::string> cases;           // case lines of the gate's own scenarios in which it must show
  std::function<void(impl::Seams&)> plant;  // adds its decorators to the seams of one rank
  std::vector<std::string> exact = {};      // case lines in which the same mistake is none: they must pass
};

// All faults, in a fixed order.
const std::vector<Fault>& all();
// Throws InputError listing what there is.
const Fault& find(const std::string& id);

}  // namespace meshparity::faults
