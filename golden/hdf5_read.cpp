// Reads HDF5 of unknown origin. Linked into the guard process only: Debian's libhdf5 1.10.8 crashes on about
// 2 % of damaged files, and a crash there costs a line of text, not the program.
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "golden/hdf5_handle.h"
#include "golden/hdf5_io.h"
#include "golden/hdf5_types.h"
#include "harness/types/error.h"

namespace meshparity::golden {
namespace {

constexpr std::uintmax_t kWholeInMemory = std::uintmax_t{64} << 20;

class Reader {
 public:
  Reader(std::string file, ContentSink& sink) : file_(std::move(file)), sink_(sink) {}

  void read() {
    const htri_t is_hdf5 = H5Fis_hdf5(file_.c_str());
    if (is_hdf5 == 0) throw InputError(file_ + ": damaged or not an HDF5 file (no HDF5 signature)");
    const Handle access(checked(H5Pcreate(H5P_FILE_ACCESS)));
    std::error_code ignored;
    checked(H5Pset_sieve_buf_size(access, 0));  // every dataset is read whole
    // One read instead of a dozen per dataset.
    if (std::filesystem::file_size(file_, ignored) <= kWholeInMemory)
      checked(H5Pset_fapl_core(access, std::size_t{1} << 20, false));
    const Handle handle(checked(H5Fopen(file_.c_str(), H5F_ACC_RDONLY, access)));
    hsize_t bytes = 0;
    checked(H5Fget_filesize(handle, &bytes));
    remaining_ = Limits::content_bytes(bytes);
    const Handle root(checked(H5Gopen2(handle, "/", H5P_DEFAULT)));
    for (const auto& name : attribute_names(root)) {
      if (!valid_path(name)) damaged("an attribute name holds a sign that is not printable");
      sink_.attribute(name, read_attribute(root, name, "attribute " + name));
    }
    walk(root, "");
  }

 private:
  [[noreturn]] void damaged(const std::string& cause) const {
    throw InputError(file_ + ": damaged (" + cause + ")");
  }
  [[noreturn]] void wrong(const std::string& path, const std::string& what) const {
    throw InputError(file_, path, what);
  }
  template <class T>
  T checked(T result) const {
    if (result < 0) damaged(hdf5_cause());
    return result;
  }
  // Counts what the content will occupy before anything is allocated.
  void spend(std::uint64_t bytes, const std::string& path) {
    if (bytes > remaining_) wrong(path, "damaged (claims more data than a file of this size can hold)");
    remaining_ -= bytes;
  }

  std::vector<std::string> attribute_names(hid_t object) const {
    std::vector<std::string> names;
    hsize_t position = 0;
    checked(H5Aiterate2(
        object, H5_INDEX_NAME, H5_ITER_INC, &position,
        [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
          static_cast<std::vector<std::string>*>(out)->push_back(name);
          return 0;
        },
        &names));
    return names;
  }

  void walk(hid_t group, const std::string& prefix) {
    using Links = std::vector<std::pair<std::string, H5L_type_t>>;
    Links links;
    hsize_t position = 0;
    checked(H5Literate(
        group, H5_INDEX_NAME, H5_ITER_INC, &position,
        [](hid_t, const char* name, const H5L_info_t* info, void* out) -> herr_t {
          static_cast<Links*>(out)->emplace_back(name, info->type);
          return 0;
        },
        &links));
    for (const auto& [name, link] : links) {
      const std::string path = prefix + name;
      if (!valid_path(path)) damaged("a name is too long or holds a sign that is not printable");
      // Also ends groups that contain themselves.
      if (++objects_ > Limits::kObjects)
        damaged("more than " + std::to_string(Limits::kObjects) + " objects");
      if (link != H5L_TYPE_HARD) wrong(path, "is a link; a golden holds its data itself");
      const Handle object(checked(H5Oopen(group, name.c_str(), H5P_DEFAULT)));
      switch (H5Iget_type(object)) {
        case H5I_GROUP:
          walk(object, path + "/");
          break;
        case H5I_DATASET:
          read_dataset(object, path);
          break;
        default:
          wrong(path, "is neither a group nor a dataset");
      }
    }
  }

  void check_storage(hid_t dataset, const std::string& path) const {
    // An address means contiguous storage inside this file, which has no filters; asking for the properties
    // is slow.
    if (H5Dget_offset(dataset) != HADDR_UNDEF) return;
    const Handle plist(checked(H5Dget_create_plist(dataset)));
    const H5D_layout_t layout = H5Pget_layout(plist);
    if (layout != H5D_CONTIGUOUS && layout != H5D_CHUNKED && layout != H5D_COMPACT)
      wrong(path, "its storage layout is not supported (contiguous, compact or chunked)");
    if (layout == H5D_CONTIGUOUS && checked(H5Pget_external_count(plist)) != 0)
      wrong(path, "its data lies in another file; a golden holds its data itself");
    for (int i = 0, n = checked(H5Pget_nfilters(plist)); i < n; ++i) {
      unsigned flags = 0, config = 0;
      std::size_t values = 0;
      char name[32];
      const H5Z_filter_t filter =
          H5Pget_filter2(plist, i, &flags, &values, nullptr, sizeof name, name, &config);
      if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_FLETCHER32)
        wrong(path, "filter " + std::to_string(filter) + " is not supported (deflate, shuffle, fletcher32)");
    }
  }

  void read_dataset(hid_t dataset, const std::string& path) {
    check_storage(dataset, path);
    const Handle type(checked(H5Dget_type(dataset)));
    const Handle space(checked(H5Dget_space(dataset)));
    std::string sha256;
    if (checked(H5Aexists(dataset, "sha256"))) {
      sha256 = read_attribute(dataset, "sha256", path);
      if (sha256.size() != 64) wrong(path, "damaged (its sha256 is not 64 hexadecimal digits)");
    }
    if (H5Tget_class(type) == H5T_STRING) {
      sink_.text(path, read_string(dataset, type, space, path), sha256);
      return;
    }
    const auto dtype = types_.find(type);
    if (!dtype)
      wrong(path, "its dtype is not one of float64, float32, float16, bfloat16, int64, int32, uint8, bool");
    Shape shape = read_shape(space, path);
    std::uint64_t bytes = dtype_size(*dtype);
    bool empty = false;
    for (const auto n : shape) empty |= n == 0;
    for (const auto n : shape) {
      if (empty) break;
      if (bytes > remaining_ / static_cast<std::uint64_t>(n)) spend(UINT64_MAX, path);
      bytes *= static_cast<std::uint64_t>(n);
    }
    if (!empty) spend(bytes, path);
    HostTensor value = HostTensor::zeros(*dtype, std::move(shape));
    if (!empty) {
      checked(H5Dread(dataset, types_.of(*dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, value.bytes.data()));
    }
    if (*dtype == DType::boolean)
      for (const std::byte b : value.bytes)
        if (b > std::byte{1}) wrong(path, "damaged (a boolean is neither 0 nor 1)");
    sink_.tensor(path, std::move(value), sha256);
  }

  Shape read_shape(hid_t space, const std::string& path) const {
    switch (H5Sget_simple_extent_type(space)) {
      case H5S_SCALAR:
        return {};
      case H5S_NULL:
        wrong(path, "holds nothing (null dataspace)");
      case H5S_SIMPLE:
        break;
      default:
        damaged(hdf5_cause());
    }
    const int rank = checked(H5Sget_simple_extent_ndims(space));
    if (rank > static_cast<int>(Limits::kRank)) wrong(path, "has " + std::to_string(rank) + " dimensions");
    hsize_t dims[H5S_MAX_RANK] = {};
    checked(H5Sget_simple_extent_dims(space, dims, nullptr));
    Shape shape;
    for (int i = 0; i < rank; ++i) {
      if (dims[i] > static_cast<hsize_t>(Limits::kDimension))
        wrong(path, "damaged (a dimension is too large)");
      shape.push_back(static_cast<std::int64_t>(dims[i]));
    }
    return shape;
  }

  // Works for datasets and attributes: a string is a scalar, or one element.
  std::string read_string(hid_t object, hid_t type, hid_t space, const std::string& path) {
    if (H5Sget_simple_extent_npoints(space) != 1) wrong(path, "must be one string");
    const bool is_attribute = H5Iget_type(object) == H5I_ATTR;
    const auto fill = [&](void* out) {
      const Handle memory(checked(H5Tcopy(type)));
      checked(is_attribute ? H5Aread(object, memory, out)
                           : H5Dread(object, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, out));
    };
    std::string text;
    if (checked(H5Tis_variable_str(type))) {
      char* data = nullptr;
      fill(&data);
      if (data) text = data;
      H5free_memory(data);
      spend(text.size(), path);
    } else {
      const std::size_t size = H5Tget_size(type);
      if (size > Limits::kTextBytes) wrong(path, "is a string of more than 16 MiB");
      spend(size, path);
      text.resize(size);
      fill(text.data());
      const H5T_str_t padding = H5Tget_strpad(type);
      if (padding == H5T_STR_NULLTERM) text.resize(std::min(text.find('\0'), text.size()));
      const char pad = padding == H5T_STR_SPACEPAD ? ' ' : '\0';
      while (!text.empty() && text.back() == pad) text.pop_back();
    }
    if (text.size() > Limits::kTextBytes) wrong(path, "is a string of more than 16 MiB");
    return text;
  }

  // Strings as they are; numbers as text, so that a schema written as integer 1 and as "1" mean the same.
  std::string read_attribute(hid_t object, const std::string& name, const std::string& field) {
    const Handle attribute(checked(H5Aopen(object, name.c_str(), H5P_DEFAULT)));
    const Handle type(checked(H5Aget_type(attribute)));
    const Handle space(checked(H5Aget_space(attribute)));
    if (H5Sget_simple_extent_npoints(space) != 1) wrong(field, "must be one string or number");
    switch (H5Tget_class(type)) {
      case H5T_STRING:
        return read_string(attribute, type, space, field);
      case H5T_INTEGER: {
        long long value = 0;
        checked(H5Aread(attribute, H5T_NATIVE_LLONG, &value));
        return std::to_string(value);
      }
      case H5T_FLOAT: {
        double value = 0;
        checked(H5Aread(attribute, H5T_NATIVE_DOUBLE, &value));
        char text[32];
        std::snprintf(text, sizeof text, "%.17g", value);
        return text;
      }
      default:
        wrong(field, "must be one string or number");
    }
  }

  std::string file_;
  ContentSink& sink_;
  const StoredTypes types_;
  std::uint64_t remaining_ = 0;
  std::size_t objects_ = 0;
};

}  // namespace

void read_hdf5(const std::string& file, ContentSink& sink) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  H5PLset_loading_state(0);  // a file must not make the reader load a plug-in
  Reader(file, sink).read();
}

}  // namespace meshparity::golden
