// Where scenarios are found on disk and how a name becomes a file.
#pragma once

#include <filesystem>
#include <string>

namespace meshparity::scenarios {

// The file that `name_or_path` means: a path that exists, else <scenarios_dir>/<folder>/<name><extension>.
// Throws InputError that lists the names there are.
std::filesystem::path find_scenario(const std::string& name_or_path, const std::string& folder,
                                    const std::string& extension, const std::string& what);

}  // namespace meshparity::scenarios
