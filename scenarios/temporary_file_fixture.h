// For the tests of loaders: a scenario file on disk.
#pragma once

#include <stdlib.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <filesystem>
#include <string>

namespace meshparity::scenarios {

// A file that is gone when the test ends.
class TemporaryFile {
 public:
  TemporaryFile(const std::string& text, const char* extension) {
    path_ = (std::filesystem::temp_directory_path() / ("meshparity-test-XXXXXX" + std::string(extension)))
                .string();
    const int fd = mkstemps(path_.data(), static_cast<int>(std::string(extension).size()));
    REQUIRE(fd >= 0);
    FILE* file = fdopen(fd, "w");
    fwrite(text.data(), 1, text.size(), file);
    fclose(file);
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace meshparity::scenarios
