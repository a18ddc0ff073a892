// HDF5 file types of the eight dtypes a golden may hold. To add a dtype: one case here and one in
// harness/types.
#pragma once

#include <bit>
#include <optional>
#include <vector>

#include "golden/hdf5_handle.h"
#include "harness/types/tensor.h"

namespace meshparity::golden {

// Raw bytes are hashed as little-endian, and memory is used as it lies.
static_assert(std::endian::native == std::endian::little,
              "goldens are read and written on little-endian machines");

inline Handle half_type(std::size_t exponent_bits, std::size_t mantissa_bits, std::size_t bias) {
  Handle type(H5Tcopy(H5T_IEEE_F32LE));
  H5Tset_fields(type, 15, mantissa_bits, exponent_bits, 0, mantissa_bits);
  H5Tset_size(type, 2);
  H5Tset_ebias(type, bias);
  return type;
}

// Little-endian storage; a boolean is the enumeration that h5py writes for numpy's bool.
inline Handle hdf5_type(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return Handle(H5Tcopy(H5T_IEEE_F64LE));
    case DType::float32:
      return Handle(H5Tcopy(H5T_IEEE_F32LE));
    case DType::float16:
      return half_type(5, 10, 15);
    case DType::bfloat16:
      return half_type(8, 7, 127);
    case DType::int64:
      return Handle(H5Tcopy(H5T_STD_I64LE));
    case DType::int32:
      return Handle(H5Tcopy(H5T_STD_I32LE));
    case DType::uint8:
      return Handle(H5Tcopy(H5T_STD_U8LE));
    case DType::boolean:
      break;
  }
  Handle type(H5Tenum_create(H5T_STD_I8LE));
  const signed char no = 0, yes = 1;
  H5Tenum_insert(type, "FALSE", &no);
  H5Tenum_insert(type, "TRUE", &yes);
  return type;
}

// The eight types, made once.
class StoredTypes {
 public:
  StoredTypes() {
    for (int i = 0; i < kCount; ++i) little_.push_back(hdf5_type(static_cast<DType>(i)));
  }
  hid_t of(DType dtype) const { return little_[static_cast<std::size_t>(dtype)]; }

  // The dtype of a type of either byte order; nothing for any other type.
  std::optional<DType> find(hid_t stored) const {
    for (int i = 0; i < kCount; ++i)
      if (H5Tequal(stored, little_[static_cast<std::size_t>(i)]) > 0) return static_cast<DType>(i);
    if (H5Tget_order(stored) != H5T_ORDER_BE) return std::nullopt;
    Handle swapped(H5Tcopy(stored));
    H5Tset_order(swapped, H5T_ORDER_LE);
    for (int i = 0; i < kCount; ++i)
      if (H5Tequal(swapped, little_[static_cast<std::size_t>(i)]) > 0) return static_cast<DType>(i);
    return std::nullopt;
  }

 private:
  static constexpr int kCount = static_cast<int>(DType::boolean) + 1;
  std::vector<Handle> little_;
};

}  // namespace meshparity::golden
