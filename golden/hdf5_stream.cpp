#include "golden/hdf5_stream.h"

#include <algorithm>
#include <vector>

#include "golden/hdf5_handle.h"
#include "golden/hdf5_types.h"
#include "harness/types/error.h"

namespace meshparity::golden {
namespace {

constexpr hsize_t kAlignment = 64;

hid_t stream_access() {
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18);
  H5Pset_alignment(access, 1, kAlignment);
  return access;
}

hid_t groups_on_the_way() {
  const hid_t links = H5Pcreate(H5P_LINK_CREATE);
  H5Pset_create_intermediate_group(links, 1);
  return links;
}

hid_t stream_file(const std::string& file, hid_t access) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const hid_t id = H5Fcreate(file.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, access);
  if (id < 0) throw InputError(file + ": cannot be written: " + hdf5_cause());
  return id;
}

}  // namespace

struct StreamWriter::Open {
  explicit Open(const std::string& name) : file(stream_file(name, access)) {}
  Handle access{stream_access()};
  Handle links{groups_on_the_way()};
  Handle file;
};

StreamWriter::StreamWriter(const std::string& file) : file_(file), open_(std::make_unique<Open>(file)) {}
StreamWriter::~StreamWriter() = default;

StoredPlace StreamWriter::tensor(const std::string& path, const TensorView& value) {
  const auto fail = [&] { throw RunError(file_ + ": " + path + ": cannot be written: " + hdf5_cause()); };
  const Handle type = hdf5_type(value.dtype);
  const std::vector<hsize_t> dims(value.shape.begin(), value.shape.end());
  const Handle space(dims.empty() ? H5Screate(H5S_SCALAR)
                                  : H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr));
  const Handle dataset(
      H5Dcreate2(open_->file, path.c_str(), type, space, open_->links, H5P_DEFAULT, H5P_DEFAULT));
  if (dataset < 0) fail();
  StoredPlace place{path, value.dtype, value.shape, 0};
  if (value.numel() == 0) return place;
  if (H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value.data) < 0) fail();
  place.offset = H5Dget_offset(dataset);
  if (place.offset == HADDR_UNDEF) fail();
  return place;
}

void StreamWriter::text(const std::string& path, const std::string& value) {
  const Handle type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type, std::max<std::size_t>(value.size(), 1));
  H5Tset_cset(type, H5T_CSET_UTF8);
  H5Tset_strpad(type, H5T_STR_NULLPAD);
  const Handle space(H5Screate(H5S_SCALAR));
  const Handle dataset(
      H5Dcreate2(open_->file, path.c_str(), type, space, open_->links, H5P_DEFAULT, H5P_DEFAULT));
  if (dataset < 0 || H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value.c_str()) < 0)
    throw RunError(file_ + ": " + path + ": cannot be written: " + hdf5_cause());
}

void StreamWriter::close() {
  const bool whole = H5Fflush(open_->file, H5F_SCOPE_GLOBAL) >= 0;
  const std::string cause = whole ? "" : hdf5_cause();
  open_.reset();
  if (!whole) throw RunError(file_ + ": cannot be written: " + cause);
}

}  // namespace meshparity::golden
