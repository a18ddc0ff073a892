// A file written tensor by tensor is HDF5 that the guarded reader takes, and its places are where the data
// lie.
#include "golden/hdf5_stream.h"

#include <catch2/catch.hpp>
#include <cstring>

#include "golden/guard.h"
#include "golden/test_files.h"

namespace meshparity::golden {

TEST_CASE("a streamed file reads back whole, and every tensor lies where its place says") {
  const TemporaryFolder folder;
  const std::string path = folder.file("stream.h5");
  const HostTensor small = HostTensor::from(DType::float32, {3}, std::vector<float>{1, -2, 3.5F});
  const HostTensor wide = HostTensor::from_int64({2, 2}, {1, 2, 3, 4});
  std::vector<StoredPlace> places;
  StreamWriter file(path);
  file.text("config", "{}");
  places.push_back(file.tensor("weights/a", small.view()));
  places.push_back(file.tensor("expected/grads/a.b", wide.view()));
  places.push_back(file.tensor("expected/loss/sum", HostTensor::scalar(2.5).view()));
  file.close();

  const RawContent content = read_guarded(path);
  CHECK(content.store.strings.at("config") == "{}");
  std::ifstream in(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  for (const StoredPlace& place : places) {
    const HostTensor& read = content.store.tensors.at(place.path);
    CHECK(read.dtype == place.dtype);
    CHECK(read.shape == place.shape);
    CHECK(place.offset % 64 == 0);
    REQUIRE(place.offset + read.bytes.size() <= bytes.size());
    CHECK(std::memcmp(bytes.data() + place.offset, read.bytes.data(), read.bytes.size()) == 0);
  }
  CHECK(content.store.tensors.at("weights/a").bytes == small.bytes);
  CHECK(content.store.tensors.at("expected/grads/a.b").bytes == wide.bytes);
}

TEST_CASE("a path that stands already and a file that is there are refused") {
  const TemporaryFolder folder;
  StreamWriter file(folder.file("stream.h5"));
  file.tensor("weights/a", HostTensor::scalar(1).view());
  CHECK_THROWS_AS(file.tensor("weights/a", HostTensor::scalar(2).view()), RunError);
  file.close();
  CHECK_THROWS_AS(StreamWriter(folder.file("stream.h5")), InputError);
}

}  // namespace meshparity::golden
