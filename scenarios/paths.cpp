#include "scenarios/paths.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "harness/types/error.h"
#include "scenarios/load.h"

namespace fs = std::filesystem;

namespace meshparity::scenarios {

fs::path scenarios_dir() {
  if (const char* dir = std::getenv("MESHPARITY_SCENARIOS"); dir && *dir) return dir;
  if (const char* dir = std::getenv("MESHPARITY_SOURCE"); dir && *dir) return fs::path(dir) / "scenarios";
  // An installed executable carries its scenarios with it: <prefix>/bin and <prefix>/share/meshparity.
  std::error_code error;
  const fs::path executable = fs::read_symlink("/proc/self/exe", error);
  if (!error) {
    const fs::path installed = executable.parent_path().parent_path() / "share/meshparity/scenarios";
    if (fs::is_directory(installed, error)) return installed;
  }
  return fs::path(MESHPARITY_SOURCE_DIR) / "scenarios";
}

fs::path find_scenario(const std::string& name_or_path, const std::string& folder,
                       const std::string& extension, const std::string& what) {
  std::error_code error;
  if (name_or_path.empty()) throw InputError(what + ": the name is empty");
  const fs::path dir = scenarios_dir() / folder;
  // A bare name means the packaged scenario even where the working directory has an entry of that name.
  const bool bare = name_or_path.find('/') == std::string::npos;
  if (bare) {
    for (const auto& candidate : {dir / (name_or_path + extension), dir / name_or_path})
      if (candidate.extension() == extension && fs::is_regular_file(candidate, error)) return candidate;
  }
  if (fs::exists(name_or_path, error)) return name_or_path;
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir, error))
    if (entry.path().extension() == extension) names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  std::string list;
  for (const auto& name : names) list += (list.empty() ? "" : ", ") + name;
  throw InputError(what + " '" + name_or_path + "': neither a file nor a packaged name (" +
                   (list.empty() ? "none in " + dir.string() : list) + ")");
}

}  // namespace meshparity::scenarios
