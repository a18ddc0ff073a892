// A folder that appears under its name only when all of it is written.
#pragma once

#include <filesystem>
#include <string>

namespace meshparity::cli {

// The folder that an option --to names: absolute, not there yet or empty, or any folder with `force`. Throws
// InputError where it is a file or holds something; with `force`, where it holds an index of other weights.
std::filesystem::path writable_target(const std::string& to, bool force);

// A folder beside `target` that is gone at the end unless it became the target.
class StagingFolder {
 public:
  // Throws InputError where it cannot be made.
  explicit StagingFolder(const std::filesystem::path& target);
  ~StagingFolder();
  StagingFolder(const StagingFolder&) = delete;
  StagingFolder& operator=(const StagingFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

  // Becomes `target`, which does not exist or is empty; or, file by file, moves into a folder that has
  // others.
  void move_to(const std::filesystem::path& target) const;

 private:
  std::filesystem::path path_;
};

}  // namespace meshparity::cli
