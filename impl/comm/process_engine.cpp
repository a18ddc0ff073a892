// One rank of a world of processes: rendezvous in a file, one backend per group.
#include <filesystem>
#include <map>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <utility>

#include "harness/types/error.h"
#include "impl/comm/group.h"
#include "impl/comm/in_process.h"
#include "impl/comm/process_groups.h"

namespace meshparity::impl {
namespace {

class ProcessEngine final : public Engine {
 public:
  ProcessEngine(int rank, int world, const std::string& store_file, double timeout_seconds,
                BackendMaker maker)
      : rank_(rank), world_(world), maker_(std::move(maker)) {
    if (world < 1 || rank < 0 || rank >= world) {
      throw InputError("rank " + std::to_string(rank) + " is not in a world of " + std::to_string(world));
    }
    if (!(timeout_seconds > 0)) throw InputError("the time limit of collectives must be above 0 s");
    if (world == 1) return;  // meets nobody
    const auto folder = std::filesystem::absolute(store_file).parent_path();
    if (store_file.empty() || !std::filesystem::is_directory(folder)) {
      throw InputError(store_file, "rendezvous", "its folder does not exist");
    }
    store_ = c10::make_intrusive<c10d::FileStore>(store_file, world);
    store_->setTimeout(std::chrono::milliseconds(static_cast<std::int64_t>(timeout_seconds * 1000)));
  }

  int rank() const override { return rank_; }
  int world() const override { return world_; }

  std::shared_ptr<Group> group(const std::string& axis, const std::vector<int>& members) override {
    const int index = member_index(axis, members, rank_, world_);
    auto& group = groups_[{axis, members}];
    if (!group) {
      const int size = static_cast<int>(members.size());
      group = std::make_shared<Group>(axis, index, size, backend(axis, members, index, size));
    }
    return group;
  }

 private:
  c10::intrusive_ptr<c10d::Backend> backend(const std::string& axis, const std::vector<int>& members,
                                            int index, int size) {
    if (size == 1) return make_single_backend();
    const std::string name = group_text(axis, members);
    try {
      return maker_(c10::make_intrusive<c10d::PrefixStore>(name, store_), index, size);
    } catch (const InputError&) {
      throw;
    } catch (const std::exception&) {
      throw RunError("rank " + std::to_string(rank_) + ": cannot form group " + name + ": " +
                     error_text(std::current_exception()));
    }
  }

  const int rank_, world_;
  const BackendMaker maker_;
  c10::intrusive_ptr<c10d::Store> store_;
  std::map<std::pair<std::string, std::vector<int>>, std::shared_ptr<Group>> groups_;
};

}  // namespace

std::unique_ptr<Engine> make_process_engine(int rank, int world, const std::string& store_file,
                                            double timeout_seconds, BackendMaker maker) {
  return std::make_unique<ProcessEngine>(rank, world, store_file, timeout_seconds, std::move(maker));
}

std::unique_ptr<Engine> make_gloo_engine(int rank, int world, const std::string& store_file,
                                         double timeout_seconds) {
  return make_process_engine(
      rank, world, store_file, timeout_seconds,
      [timeout_seconds](const c10::intrusive_ptr<c10d::Store>& store, int index, int size) {
        return make_gloo_backend(store, index, size, timeout_seconds);
      });
}

}  // namespace meshparity::impl
