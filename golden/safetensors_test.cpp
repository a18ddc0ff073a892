// Safetensors come back as written; a header that lies is refused by name.
#include "golden/safetensors.h"

#include <catch2/catch.hpp>

#include "golden/test_files.h"
#include "harness/types/generator.h"

namespace meshparity::golden {
namespace {

using Catch::Contains;

std::string with_header(const std::string& header, const std::string& data) {
  const std::uint64_t bytes = header.size();
  return std::string(reinterpret_cast<const char*>(&bytes), sizeof bytes) + header + data;
}

// What opening a file of this header and `data_bytes` bytes of data says.
std::string opened(const std::string& header, std::size_t data_bytes) {
  const TemporaryFolder folder;
  spill(folder.file("w.safetensors"), with_header(header, std::string(data_bytes, '\0')));
  return input_error([&] { SafetensorsFile file(folder.file("w.safetensors")); });
}

}  // namespace

TEST_CASE("every dtype, scalars and empty tensors survive safetensors") {
  const TemporaryFolder folder;
  std::map<std::string, HostTensor> tensors;
  for (const DType dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16, DType::int64,
                            DType::int32, DType::uint8, DType::boolean}) {
    HostTensor tensor = HostTensor::zeros(dtype, {3, 5});
    for (std::size_t i = 0; i < tensor.bytes.size(); ++i) tensor.bytes[i] = std::byte(i % 251);
    tensors[std::string(dtype_name(dtype))] = tensor;
    tensors["empty." + std::string(dtype_name(dtype))] = HostTensor::zeros(dtype, {0, 2});
  }
  tensors["scalar"] = HostTensor::scalar(2.5);
  write_safetensors(folder.file("w.safetensors"), tensors);
  const SafetensorsFile file(folder.file("w.safetensors"));
  CHECK(file.names().size() == tensors.size());
  for (const auto& [name, tensor] : tensors) CHECK(equal(file.tensor(name), tensor));
  CHECK_THAT(input_error([&] { file.view("none"); }), Contains("none: is missing"));
}

TEST_CASE("a dtype nobody here uses is refused only where it is asked for") {
  const TemporaryFolder folder;
  spill(folder.file("w.safetensors"),
        with_header(R"({"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}})", "xx"));
  const SafetensorsFile file(folder.file("w.safetensors"));
  CHECK_THAT(input_error([&] { file.view("a"); }), Contains("a: has dtype F8_E4M3"));
}

TEST_CASE("a header whose numbers do not fit is refused by the tensor's name") {
  const auto tensor = [](const char* shape, const char* offsets) {
    return std::string(R"({"a":{"dtype":"F32","shape":)") + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  CHECK(opened(tensor("[2,3]", "[0,24]"), 24).empty());
  CHECK(opened(tensor("[]", "[0,4]"), 4).empty());
  CHECK_THAT(opened(tensor("[2,3]", "[0,20]"), 24), Contains("a: its data_offsets"));
  CHECK_THAT(opened(tensor("[2,3]", "[24,0]"), 24), Contains("a: its data_offsets"));
  CHECK_THAT(opened(tensor("[2,3]", "[4,28]"), 28),
             Contains("a: its data overlaps another tensor's or leaves a gap"));
  CHECK_THAT(opened(tensor("[2,3]", "[0,24]"), 25),
             Contains("damaged (its tensors need 24 bytes, it holds 25)"));
  CHECK_THAT(opened(tensor("[2,3]", "[0,24]"), 23), Contains("damaged"));
  CHECK_THAT(opened(tensor("[-2,3]", "[0,24]"), 24), Contains("a: has an impossible shape"));
  CHECK_THAT(opened(tensor("[2.5]", "[0,8]"), 8), Contains("a: has an impossible shape"));
  CHECK_THAT(opened(tensor("[4294967296,4294967296]", "[0,0]"), 0), Contains("a: is larger than its file"));
  CHECK_THAT(opened(tensor("[1099511627776,1099511627776,4]", "[0,0]"), 0), Contains("a: is larger"));
  CHECK_THAT(opened(tensor("[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4), Contains("a: has more than 8 dimensions"));
  CHECK_THAT(opened(tensor("6", "[0,24]"), 24), Contains("a: has no dtype, shape"));
  CHECK_THAT(opened(tensor("[6]", "[0,18446744073709551615]"), 24), Contains("a: its data_offsets"));
  CHECK_THAT(opened(R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})", 4),
             Contains("unknown dtype 'F33'"));
  CHECK_THAT(opened(R"({"a":5})", 0), Contains("a: has no dtype, shape"));
  const std::string one = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  CHECK_THAT(opened(R"({"a":)" + one + R"(,"b":)" + one + "}", 8), Contains("b: its data overlaps"));
  CHECK_THAT(opened(R"({"a":)" + one + R"(,"a":)" + one + "}", 4), Contains("a: stands twice"));
  CHECK_THAT(opened("[]", 0), Contains("not a JSON object"));
  CHECK_THAT(opened("{\"a\":", 0), Contains("not a JSON object"));
  CHECK_THAT(opened(std::string(100000, '['), 0), Contains("not a JSON object"));
}

TEST_CASE("a file too short, missing or with a header longer than itself is named") {
  const TemporaryFolder folder;
  const std::string file = folder.file("w.safetensors");
  CHECK_THAT(input_error([&] { SafetensorsFile f(file); }), Contains("w.safetensors: cannot be read"));
  for (const std::string& bytes : {std::string(), std::string(9, '\0'), std::string(10, '\xff'),
                                   std::string("\x03\0\0\0\0\0\0\0{}", 10)}) {
    spill(file, bytes);
    CHECK_THAT(input_error([&] { SafetensorsFile f(file); }), Contains("w.safetensors: damaged"));
  }
}

TEST_CASE("2,000 seeded changes of a header are refused or leave every view inside the file") {
  const TemporaryFolder folder;
  const std::string file = folder.file("w.safetensors");
  write_safetensors(file, {{"a", reals({2, 3}, 1)}, {"b", HostTensor::zeros(DType::bfloat16, {4})}});
  const std::string bytes = slurp(file);
  const auto header = static_cast<std::int64_t>(bytes.size()) - 56;
  const Generator draw(5, "golden/safetensors");
  int refused = 0;
  for (std::uint64_t i = 0; i < 2000; ++i) {
    std::string changed = bytes;
    changed[static_cast<std::size_t>(draw.below(3 * i, header))] =
        static_cast<char>(draw.below(3 * i + 1, 128));
    if (i % 8 == 0) changed.resize(static_cast<std::size_t>(draw.below(3 * i + 2, header + 56)));
    spill(file, changed);
    refused += !input_error([&] {
                  const SafetensorsFile f(file);
                  std::size_t total = 0;
                  for (const auto& name : f.names()) total += f.tensor(name).bytes.size();
                  CHECK(total <= changed.size());
                }).empty();
  }
  CHECK(refused > 1000);
}

}  // namespace meshparity::golden
