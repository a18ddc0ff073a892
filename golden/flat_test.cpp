// The flat stream comes back as it went in, and no broken stream gets past its reader.
#include "golden/flat.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "golden/guard.h"
#include "golden/test_files.h"
#include "harness/types/generator.h"

namespace meshparity::golden {
namespace {

using Catch::Contains;

constexpr std::uint64_t kPlenty = 1 << 20;

class MemorySource : public ByteSource {
 public:
  explicit MemorySource(std::string bytes) : bytes_(std::move(bytes)) {}
  void read(void* out, std::size_t bytes) override {
    if (bytes > bytes_.size() - at_) throw FlatError("the stream ends early");
    if (bytes) std::memcpy(out, bytes_.data() + at_, bytes);
    at_ += bytes;
  }
  bool at_end() override { return at_ == bytes_.size(); }

 private:
  std::string bytes_;
  std::size_t at_ = 0;
};

RawContent parse(const std::string& bytes, std::uint64_t limit = kPlenty) {
  MemorySource source(bytes);
  return read_flat(source, limit);
}

// What `say` writes, through a file.
template <class Say>
std::string stream(Say say) {
  const TemporaryFolder folder;
  std::FILE* file = std::fopen(folder.file("s").c_str(), "wb");
  FlatWriter writer(::fileno(file));
  say(writer);
  std::fclose(file);
  return slurp(folder.file("s"));
}

std::string whole_stream() {
  return stream([](FlatWriter& writer) {
    writer.attribute("schema", "1");
    writer.text("config", "{}", std::string(64, 'a'));
    writer.tensor("x", reals({2, 3}, 1), "");
    writer.tensor("empty", HostTensor::zeros(DType::int32, {0, 4}), std::string(64, 'b'));
    writer.end();
  });
}

template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string raw_text(const std::string& text) {
  return raw(static_cast<std::uint32_t>(text.size())) + text;
}

// A stream with one tensor record whose dtype, rank and dimensions are as given.
std::string tensor_stream(int dtype, const std::vector<std::int64_t>& dims, const std::string& data) {
  std::string bytes = "MPFLAT01T" + raw_text("x") + raw_text("") + raw(static_cast<std::uint8_t>(dtype)) +
                      raw(static_cast<std::uint8_t>(dims.size()));
  for (const auto n : dims) bytes += raw(n);
  return bytes + data + "Z" + raw(std::uint64_t{1});
}

// Names the guard program for as long as it lives.
class NamedGuard {
 public:
  explicit NamedGuard(const std::string& program) {
    if (const char* before = std::getenv(kName)) before_ = before;
    ::setenv(kName, program.c_str(), 1);
  }
  ~NamedGuard() {
    if (before_)
      ::setenv(kName, before_->c_str(), 1);
    else
      ::unsetenv(kName);
  }

 private:
  static constexpr const char* kName = "MESHPARITY_H5GUARD";
  std::optional<std::string> before_;
};

}  // namespace

TEST_CASE("a flat stream carries attributes, strings, tensors and hashes") {
  const RawContent content = parse(whole_stream());
  CHECK(content.store.attributes.at("schema") == "1");
  CHECK(content.store.strings.at("config") == "{}");
  CHECK(equal(content.store.tensors.at("x"), reals({2, 3}, 1)));
  CHECK(content.store.tensors.at("empty").shape == Shape{0, 4});
  CHECK(content.stored.at("config") == std::string(64, 'a'));
  CHECK(content.stored.count("x") == 0);
  CHECK(content.computed.at("config") == sha256_hex("{}", 2));
  CHECK(content.computed.size() == 3);
}

TEST_CASE("no proper part of a stream is a stream, nor is one with a tail") {
  const std::string bytes = whole_stream();
  for (std::size_t n = 0; n < bytes.size(); ++n) CHECK_THROWS_AS(parse(bytes.substr(0, n)), FlatError);
  CHECK_THROWS_AS(parse(bytes + "x"), FlatError);
}

TEST_CASE("10,000 seeded changes of a stream are refused or parsed within their bounds") {
  const std::string bytes = whole_stream();
  const Generator draw(3, "golden/flat");
  int parsed = 0;
  for (std::uint64_t i = 0; i < 10'000; ++i) {
    std::string changed = bytes;
    for (std::uint64_t k = 0; k <= i % 3; ++k)
      changed[static_cast<std::size_t>(draw.below(8 * i + 2 * k, static_cast<std::int64_t>(bytes.size())))] =
          static_cast<char>(draw.below(8 * i + 2 * k + 1, 256));
    try {
      std::size_t total = 0;
      for (const auto& [path, tensor] : parse(changed).store.tensors) {
        CHECK(tensor.bytes.size() == static_cast<std::size_t>(tensor.numel()) * dtype_size(tensor.dtype));
        total += tensor.bytes.size();
      }
      CHECK(total <= changed.size());
      ++parsed;
    } catch (const FlatError&) {
    } catch (const InputError&) {  // a record became an error message
    }
  }
  CHECK(parsed > 100);  // changes inside values and data are for the hashes to find
}

TEST_CASE("lengths that lie are refused before anything is allocated") {
  const std::string eight(8, '\0');
  CHECK(parse(tensor_stream(0, {1}, eight)).store.tensors.at("x").numel() == 1);
  CHECK_THROWS_AS(parse(tensor_stream(0, {2}, eight)), FlatError);
  CHECK_THROWS_AS(parse(tensor_stream(8, {1}, eight)), FlatError);
  CHECK_THROWS_AS(parse(tensor_stream(0, {-1}, eight)), FlatError);
  CHECK_THROWS_AS(parse(tensor_stream(0, {std::int64_t{1} << 41}, eight)), FlatError);
  CHECK_THROWS_AS(parse(tensor_stream(0, {1 << 30, 1 << 30, 1 << 30}, eight)), FlatError);
  CHECK_THROWS_AS(parse(tensor_stream(0, std::vector<std::int64_t>(9, 1), eight)), FlatError);
  CHECK_THROWS_AS(parse(tensor_stream(0, {1 << 20}, std::string(8 << 20, '\0'))),
                  FlatError);  // over the limit
  CHECK_THROWS_AS(parse("MPFLAT01A" + raw(std::uint32_t{0xffffffff})), FlatError);
  CHECK_THROWS_AS(parse("MPFLAT01A" + raw_text("../x") + raw_text("")), FlatError);
  CHECK_THROWS_AS(parse("MPFLAT02Z" + raw(std::uint64_t{0})), FlatError);
  CHECK_THROWS_AS(parse("MPFLAT01Z" + raw(std::uint64_t{1})), FlatError);
}

TEST_CASE("a name that stands twice is refused, across kinds too") {
  const auto refused = [](auto say) {
    const std::string bytes = stream([&](FlatWriter& writer) { say(writer), writer.end(); });
    CHECK_THROWS_AS(parse(bytes), FlatError);
  };
  refused([](FlatWriter& w) { w.attribute("a", "1"), w.attribute("a", "2"); });
  refused([](FlatWriter& w) { w.text("a", "1", ""), w.text("a", "2", ""); });
  refused([](FlatWriter& w) { w.text("a", "1", ""), w.tensor("a", reals({1}, 0), ""); });
  refused([](FlatWriter& w) { w.tensor("a", reals({1}, 0), ""), w.tensor("a", reals({1}, 0), ""); });
}

TEST_CASE("the guard's message arrives without signs that steer a terminal") {
  const std::string bytes = stream([](FlatWriter& writer) { writer.error("g.h5: bad \x1b[31m\nname"); });
  CHECK(input_error([&] { parse(bytes); }) == "g.h5: bad ?[31m?name");
}

TEST_CASE("paths that hashes or files could not carry are no paths") {
  for (const char* good : {"a", "a/b", "model.layers.0.x_y-z", "a/..b", "a:b"}) CHECK(valid_path(good));
  for (const char* bad :
       {"", "/", "/a", "a/", "a//b", ".", "a/../b", "./a", "a b", "a\n", "\x7f", "\xc3\xa4"})
    CHECK_FALSE(valid_path(bad));
  CHECK(valid_path(std::string(1024, 'a')));
  CHECK_FALSE(valid_path(std::string(1025, 'a')));
}

TEST_CASE(
    "a guard that dies, fails, says nothing or babbles is a damaged file, and no guard is an error of the "
    "set-up") {
  const TemporaryFolder folder;
  write(folder.file("g.h5"), small_golden());
  const auto with_guard = [&](const std::string& program) {
    const NamedGuard named(program);
    return input_error([&] { read(folder.file("g.h5"), Kind::golden); });
  };
  const auto script = [&](const std::string& body) {
    spill(folder.file("guard"), "#!/bin/sh\n" + body + "\n");
    std::filesystem::permissions(folder.file("guard"), std::filesystem::perms::owner_all);
    return with_guard(folder.file("guard"));
  };
  CHECK_THAT(script("kill -SEGV $$"), Contains("g.h5: damaged (the HDF5 reader died of signal 11)"));
  CHECK_THAT(script("kill -XCPU $$"), Contains("g.h5: damaged (reading it takes too long)"));
  CHECK_THAT(script("exit 7"), Contains("g.h5: damaged (the HDF5 reader failed with exit code 7)"));
  CHECK_THAT(script(":"), Contains("g.h5: damaged"));
  CHECK_THAT(script("yes"), Contains("g.h5: damaged"));
  CHECK_THAT(script("printf MPFLAT01Z; head -c 8 /dev/zero; exit 1"), Contains("g.h5: damaged"));
  CHECK_THROWS_AS(with_guard(folder.file("none")), RunError);
}

}  // namespace meshparity::golden
