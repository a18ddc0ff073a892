#include "harness/cli/rank_process.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>

#include "harness/cli/case_arguments.h"
#include "harness/cli/child.h"
#include "harness/cli/rank_inputs.h"
#include "harness/cli/rollout_case.h"
#include "harness/cli/sweep.h"
#include "harness/cli/torch_bridge.h"
#include "harness/run/interruption.h"
#include "harness/run/scheduler.h"
#include "harness/types/error.h"

namespace meshparity::cli {
namespace {

namespace fs = std::filesystem;

// The file a rank hands to its parent, on one machine and read at once: counts and raw bytes, no portability
// needed.
class Writer {
 public:
  explicit Writer(const std::string& path) : out_(path, std::ios::binary), path_(path) {}
  void number(std::int64_t value) { out_.write(reinterpret_cast<const char*>(&value), sizeof value); }
  void text(const std::string& value) {
    number(static_cast<std::int64_t>(value.size()));
    out_.write(value.data(), static_cast<std::streamsize>(value.size()));
  }
  void shape(const Shape& shape) {
    number(static_cast<std::int64_t>(shape.size()));
    for (auto s : shape) number(s);
  }
  void bytes(const void* data, std::size_t size) {
    out_.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
  }
  void close() {
    out_.close();
    if (!out_) throw RunError(path_ + ": cannot be written");
  }

 private:
  std::ofstream out_;
  std::string path_;
};

class Reader {
 public:
  explicit Reader(const std::string& path) : in_(path, std::ios::binary), path_(path) {}
  std::int64_t number() {
    std::int64_t value = 0;
    bytes(&value, sizeof value);
    return value;
  }
  std::string text() {
    std::string value(static_cast<std::size_t>(number()), '\0');
    bytes(value.data(), value.size());
    return value;
  }
  Shape shape() {
    Shape shape(static_cast<std::size_t>(number()));
    for (auto& s : shape) s = number();
    return shape;
  }
  void bytes(void* data, std::size_t size) {
    if (size && !in_.read(static_cast<char*>(data), static_cast<std::streamsize>(size)))
      throw RunError(path_ + ": ends early");
  }

 private:
  std::ifstream in_;
  std::string path_;
};

void write_output(const std::string& path, const impl::RankOutput& output) {
  Writer file(path);
  file.number(static_cast<std::int64_t>(output.records.size()));
  for (const auto& record : output.records) {
    const TensorView view = view_of(record.value);
    file.text(record.key);
    file.number(static_cast<std::int64_t>(view.dtype));
    file.shape(view.shape);
    file.bytes(view.data, view.bytes());
  }
  file.number(output.parameter_bytes);
  for (const auto* shapes : {&output.stored_shapes, &output.gathered_shapes}) {
    file.number(static_cast<std::int64_t>(shapes->size()));
    for (const auto& [name, shape] : *shapes) file.text(name), file.shape(shape);
  }
  file.number(static_cast<std::int64_t>(output.communication.size()));
  for (const auto& event : output.communication)
    file.text(event.site), file.text(event.axis), file.text(event.op), file.number(event.elements_sent);
  file.close();
}

impl::RankOutput read_output(const std::string& path) {
  Reader file(path);
  impl::RankOutput output;
  for (std::int64_t left = file.number(); left > 0; --left) {
    impl::LocalRecord record;
    record.key = file.text();
    const auto dtype = static_cast<DType>(file.number());
    record.value = at::empty(file.shape(), scalar_type_of(dtype));
    file.bytes(record.value.data_ptr(), record.value.nbytes());
    output.records.push_back(std::move(record));
  }
  output.parameter_bytes = file.number();
  for (auto* shapes : {&output.stored_shapes, &output.gathered_shapes})
    for (std::int64_t left = file.number(); left > 0; --left) {
      const std::string name = file.text();
      (*shapes)[name] = file.shape();
    }
  for (std::int64_t left = file.number(); left > 0; --left) {
    impl::CommEvent event;
    event.site = file.text(), event.axis = file.text(), event.op = file.text();
    event.elements_sent = file.number();
    output.communication.push_back(std::move(event));
  }
  return output;
}

}  // namespace

std::vector<impl::RankOutput> run_spawned(const CaseSpec& spec, double timeout_seconds, RankProgram program) {
  const int world = world_of(spec, program);
  const run::Interruption interruption;
  const TemporaryFolder temporary("meshparity-ranks");
  const std::string& folder = temporary.path();
  const auto file = [&](const std::string& kind, int rank) {
    return folder + "/" + kind + std::to_string(rank);
  };
  {
    Processes processes;
    for (int rank = 0; rank < world; ++rank)
      processes.start(
          {fs::read_symlink("/proc/self/exe").string(), "rank", "--case", spec.line(), "--rank",
           std::to_string(rank), "--program", std::to_string(static_cast<int>(program)), "--store",
           folder + "/store", "--out", file("out", rank), "--parent", std::to_string(::getpid())},
          file("err", rank));
    const int failed = processes.wait(timeout_seconds, "ranks");
    if (failed >= 0)
      throw RunError("rank " + std::to_string(failed) + " failed: " + tail_of(file("err", failed)));
    if (failed == -2)
      throw RunError("ranks did not end within " + std::to_string(static_cast<int>(timeout_seconds)) + " s");
  }
  std::vector<impl::RankOutput> outputs;
  for (int rank = 0; rank < world; ++rank) outputs.push_back(read_output(file("out", rank)));
  return outputs;
}

int world_of(const CaseSpec& spec, RankProgram program) {
  const int trained = spec.mesh.world();
  return program == RankProgram::train ? trained : std::max(trained, spec.rollout_mesh->world());
}

int rank_main(const std::string& case_line, RankProgram program, int rank, const std::string& store_file,
              const std::string& out_file, long parent) {
  run::die_with_parent(parent);
  const CaseSpec spec = single_case(case_line);
  const auto scenario = load_scenario(spec);
  constexpr double kCollectiveTimeoutSeconds = 60;
  const int world = world_of(spec, program);
  const auto engine = spec.engine == "nccl"
                          ? impl::make_nccl_engine(rank, world, store_file, kCollectiveTimeoutSeconds)
                          : impl::make_gloo_engine(rank, world, store_file, kCollectiveTimeoutSeconds);
  write_output(out_file, program == RankProgram::train
                             ? impl::run_rank(rank_inputs(spec, *scenario), *engine, seams_of(spec))
                             : roll_out(spec, *scenario, *engine));
  return 0;
}

}  // namespace meshparity::cli
