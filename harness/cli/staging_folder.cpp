// What verbs that write a whole folder share.
#include "harness/cli/staging_folder.h"

#include <unistd.h>

#include "harness/types/error.h"

namespace meshparity::cli {

namespace fs = std::filesystem;

fs::path writable_target(const std::string& to, bool force) {
  fs::path target = fs::absolute(to).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();  // "dir/" is "dir"
  std::error_code error;
  if (fs::exists(target, error) && !fs::is_directory(target, error))
    throw InputError(to + ": exists and is no folder");
  if (fs::is_directory(target, error) && !fs::is_empty(target, error) && !force)
    throw InputError(to + ": is not empty; --force writes into it");
  if (constexpr const char* kIndex = "model.safetensors.index.json"; fs::exists(target / kIndex, error))
    throw InputError(to + ": holds " + kIndex + ", by which other weights than those written would be read");
  return target;
}

StagingFolder::StagingFolder(const fs::path& target)
    : path_(target.string() + ".part" + std::to_string(::getpid())) {
  std::error_code error;
  if (!fs::create_directories(path_, error) || error)
    throw InputError(path_.string() + ": cannot be made" + (error ? ": " + error.message() : ""));
}

StagingFolder::~StagingFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void StagingFolder::move_to(const fs::path& target) const {
  std::error_code error;
  if (!fs::exists(target) || fs::is_empty(target)) {
    fs::rename(path_, target, error);
  } else {
    for (const auto& entry : fs::directory_iterator(path_)) {
      fs::rename(entry.path(), target / entry.path().filename(), error);
      if (error) break;
    }
  }
  if (error) throw InputError(target.string() + ": cannot be written: " + error.message());
}

}  // namespace meshparity::cli
