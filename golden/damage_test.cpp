// Damage of any kind ends in one line or changes nothing; a full disk leaves what was there.
#include <sys/resource.h>
#include <sys/wait.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <mutex>
#include <thread>

#include "golden/checkpoint.h"
#include "golden/safetensors.h"
#include "golden/test_files.h"
#include "harness/types/generator.h"

namespace meshparity::golden {
namespace {

using Catch::Contains;

// Mutant `index` of `bytes`: one flipped bit, several of them, a cut, or an overwritten stretch. Every second
// one falls into the first 4 KiB, where a file's structure begins.
std::string mutant(std::string bytes, std::uint64_t index) {
  const Generator draw(1, "golden/damage");
  const auto at = [&](std::uint64_t k) {
    const auto size = static_cast<std::int64_t>(bytes.size());
    return static_cast<std::size_t>(
        draw.below(16 * index + k, index % 2 ? size : std::min<std::int64_t>(size, 4096)));
  };
  const auto flip = [&](std::uint64_t k) {
    bytes[at(k)] ^= static_cast<char>(1 << draw.below(16 * index + k + 1, 8));
  };
  switch (draw.below(16 * index, 10)) {
    case 0:
      bytes.resize(at(1));
      break;
    case 1:
      bytes.replace(at(1), 8, std::string(8, static_cast<char>(draw.below(16 * index + 2, 256))));
      break;
    case 2:
    case 3:
      for (std::uint64_t k : {1, 3, 5}) flip(k);
      break;
    default:
      flip(1);
  }
  return bytes;
}

struct Tally {
  std::mutex mutex;
  int refused = 0, same = 0;
  std::vector<std::string> wrong;  // what must never happen
};

void judge(const std::string& file, const std::string& label, const Store& original, Tally* tally) {
  std::string wrong;
  bool refused = false;
  try {
    if (!same_content(read(file, Kind::golden), original)) wrong = "read with changed content";
  } catch (const InputError& error) {
    refused = true;
    const std::string message = error.what();
    if (message.rfind(file, 0) != 0) wrong = "does not name the file: " + message;
    if (message.find('\n') != std::string::npos) wrong = "is not one line: " + message;
  } catch (const std::exception& error) {
    wrong = std::string("another exception: ") + error.what();
  }
  const std::lock_guard lock(tally->mutex);
  (refused ? tally->refused : tally->same) += 1;
  if (!wrong.empty()) tally->wrong.push_back(label + " " + wrong);
}

// Judges mutants [begin, end) of a file on two threads.
void judge_mutants(const std::string& golden, std::uint64_t begin, std::uint64_t end, Tally* tally) {
  const TemporaryFolder folder;
  const std::string bytes = slurp(golden);
  const Store original = read(golden, Kind::golden);
  std::atomic<std::uint64_t> next{begin};
  const auto work = [&](const std::string& name) {
    for (std::uint64_t i; (i = next++) < end;) {
      spill(folder.file(name), mutant(bytes, i));
      judge(folder.file(name), golden + " mutant " + std::to_string(i), original, tally);
    }
  };
  std::thread other([&] { work("a.h5"); });
  work("b.h5");
  other.join();
}

}  // namespace

TEST_CASE("1,000 seeded flips and cuts of goldens never crash and never read as something else") {
  const TemporaryFolder folder;
  Tally tally;
  write(folder.file("own.h5"), small_golden());
  judge_mutants(folder.file("own.h5"), 0, 700, &tally);
  // Written by h5py: the older file format, whose structures carry no checksums.
  judge_mutants(std::string(MESHPARITY_SOURCE_DIR) + "/golden/data/tiny-dense.single.h5", 700, 1000, &tally);
  for (const auto& wrong : tally.wrong) FAIL_CHECK(wrong);
  CHECK(tally.refused + tally.same == 1000);
  CHECK(tally.refused > 500);
  INFO(tally.refused << " refused, " << tally.same << " unchanged");
}

TEST_CASE("damage in the data is found by its hash, which names the dataset") {
  const TemporaryFolder folder;
  const Store store = small_golden();
  write(folder.file("g.h5"), store);
  std::string bytes = slurp(folder.file("g.h5"));
  const HostTensor& logits = store.tensors.at("expected/logits");
  const std::string data(reinterpret_cast<const char*>(logits.bytes.data()), logits.bytes.size());
  const auto at = bytes.find(data);
  REQUIRE(at != std::string::npos);
  bytes[at + 3] ^= 1;
  spill(folder.file("g.h5"), bytes);
  CHECK_THAT(input_error([&] { read(folder.file("g.h5"), Kind::golden); }),
             Contains("expected/logits: damaged") && Contains("./meshparity golden regenerate"));
  CHECK_THAT(input_error([&] { read(folder.file("g.h5"), Kind::dump); }),
             Contains("expected/logits: damaged"));
}

TEST_CASE("a full disk is one error that names the file, and what stood there stays") {
  const TemporaryFolder folder;
  const std::string file = folder.file("g.h5");
  spill(file, "before");
  // RLIMIT_FSIZE holds for a whole process, so a child without threads writes and its exit code tells.
  for (const bool ignored : {false, true}) {
    const pid_t child = ::fork();
    if (child == 0) {
      std::signal(SIGXFSZ, ignored ? SIG_IGN : SIG_DFL);
      const rlimit limit{4096, 4096};
      ::setrlimit(RLIMIT_FSIZE, &limit);
      const auto fails = [&](const std::string& path, auto call) {
        const std::string message = input_error(call);
        return message.rfind(path + ": cannot be written", 0) == 0;
      };
      const HostTensor large = reals({1000}, 0);
      const bool golden = fails(file, [&] { write(file, small_golden()); });
      const bool tensors = fails(file, [&] { write_safetensors(file, {{"x", large}}); });
      ::_exit(golden && tensors ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    CHECK(slurp(file) == "before");
    CHECK(folder.entries() == 1);
  }
}

}  // namespace meshparity::golden
