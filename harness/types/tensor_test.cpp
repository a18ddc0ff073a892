// Numbers that every folder relies on: elements of views at any address, and draws that stay inside (0, 1).
#include "harness/types/tensor.h"

#include <catch2/catch.hpp>
#include <vector>

#include "harness/types/generator.h"

namespace meshparity {

TEST_CASE("a view reads the same numbers at every address") {
  const std::vector<double> reals = {-1.5, 0.0, 65504.0};
  const std::vector<float> singles = {-1.5f, 0.0f, 65504.0f};
  const std::vector<std::uint16_t> halves = {0xBE00, 0x0000, 0x7BFF}, brains = {0xBFC0, 0x0000, 0x4780};
  const std::vector<std::int64_t> longs = {-3, 0, std::int64_t{1} << 40};
  const std::vector<std::int32_t> ints = {-3, 0, 1 << 30};
  const std::vector<std::uint8_t> bytes = {0, 1, 255};
  const std::vector<HostTensor> tensors = {
      HostTensor::from(DType::float64, {3}, reals),  HostTensor::from(DType::float32, {3}, singles),
      HostTensor::from(DType::float16, {3}, halves), HostTensor::from(DType::bfloat16, {3}, brains),
      HostTensor::from(DType::int64, {3}, longs),    HostTensor::from(DType::int32, {3}, ints),
      HostTensor::from(DType::uint8, {3}, bytes)};
  const double want[][3] = {{-1.5, 0, 65504}, {-1.5, 0, 65504}, {-1.5, 0, 65504}, {-1.5, 0, 65536},
                            {-3, 0, 0x1p40},  {-3, 0, 0x1p30},  {0, 1, 255}};
  for (std::size_t t = 0; t < tensors.size(); ++t)
    for (std::size_t offset = 0; offset < 9; ++offset) {
      std::vector<std::byte> memory(offset + tensors[t].bytes.size());
      std::copy(tensors[t].bytes.begin(), tensors[t].bytes.end(),
                memory.begin() + static_cast<std::ptrdiff_t>(offset));
      const TensorView view{tensors[t].dtype, {3}, memory.data() + offset};
      INFO(dtype_name(view.dtype) << " at offset " << offset);
      for (int i = 0; i < 3; ++i) CHECK(view.at(i) == want[t][i]);
    }
}

TEST_CASE("a uniform draw is never 0 and never 1") {
  CHECK(Generator::unit_of(0) == 0x1p-54);
  CHECK(Generator::unit_of(~std::uint64_t{0}) == 1 - 0x1p-53);
  CHECK(Generator::unit_of(std::uint64_t{1} << 63) == 0.5);
  CHECK(Generator(7, "weights/lm_head.weight").uniform(0) == 0x1.bca911c6d726cp-4);
}

}  // namespace meshparity
