// Builds an HDF5 file in memory (core driver without backing store): nothing touches the disk until all of it
// is there.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>

#include "golden/hdf5_handle.h"
#include "golden/hdf5_io.h"
#include "golden/hdf5_types.h"
#include "harness/types/error.h"

namespace meshparity::golden {
namespace {

template <class T>
T checked(T result) {
  if (result < 0) throw RunError("HDF5 could not build the file: " + hdf5_cause());
  return result;
}

// Fixed length, padded with zeros; HDF5 has no fixed string of length 0, so "" is one zero byte.
Handle string_type(const std::string& text) {
  Handle type(checked(H5Tcopy(H5T_C_S1)));
  checked(H5Tset_size(type, std::max<std::size_t>(text.size(), 1)));
  checked(H5Tset_strpad(type, H5T_STR_NULLPAD));
  checked(H5Tset_cset(type, H5T_CSET_UTF8));
  return type;
}

void add_attribute(hid_t object, const std::string& name, const std::string& value) {
  const Handle type = string_type(value);
  const Handle space(checked(H5Screate(H5S_SCALAR)));
  const Handle attribute(checked(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT)));
  checked(H5Awrite(attribute, type, value.c_str()));
}

void add_integer_attribute(hid_t object, const std::string& name, long long value) {
  const Handle space(checked(H5Screate(H5S_SCALAR)));
  const Handle attribute(
      checked(H5Acreate2(object, name.c_str(), H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT)));
  checked(H5Awrite(attribute, H5T_NATIVE_LLONG, &value));
}

bool is_integer(const std::string& text) {
  return !text.empty() && text.size() < 18 && text.find_first_not_of("0123456789") == std::string::npos &&
         (text == "0" || text[0] != '0');
}

// The memory of a file on the core driver, kept when HDF5 closes the file: only then is the superblock final.
class MemoryFile {
 public:
  MemoryFile() = default;
  ~MemoryFile() { std::free(data_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  void attach(hid_t access) {
    checked(H5Pset_fapl_core(access, std::size_t{1} << 20, false));
    H5FD_file_image_callbacks_t callbacks = {};
    callbacks.image_malloc = [](std::size_t size, H5FD_file_image_op_t, void*) { return std::malloc(size); };
    callbacks.image_memcpy = [](void* to, const void* from, std::size_t size, H5FD_file_image_op_t, void*) {
      return std::memcpy(to, from, size);
    };
    callbacks.image_realloc = [](void* data, std::size_t size, H5FD_file_image_op_t, void* self) {
      void* moved = std::realloc(data, size);
      if (moved) static_cast<MemoryFile*>(self)->size_ = size;
      return moved;
    };
    callbacks.image_free = [](void* data, H5FD_file_image_op_t, void* self) -> herr_t {
      std::free(std::exchange(static_cast<MemoryFile*>(self)->data_, static_cast<std::byte*>(data)));
      return 0;
    };
    callbacks.udata_copy = [](void* self) { return self; };
    callbacks.udata_free = [](void*) -> herr_t { return 0; };
    callbacks.udata = this;
    checked(H5Pset_file_image_callbacks(access, &callbacks));
  }

  // After the file is closed. The core driver allocates in steps; where the file ends stands in its
  // superblock.
  std::vector<std::byte> take() const {
    constexpr std::size_t kEndField =
        28;  // version 2: signature 8, four bytes, base address 8, extension address 8
    std::uint64_t end = 0;
    if (data_ && size_ >= kEndField + sizeof end) std::memcpy(&end, data_ + kEndField, sizeof end);
    if (end == 0 || end > size_) throw RunError("HDF5 could not build the file: it has no end");
    return {data_, data_ + end};
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

class Writer {
 public:
  explicit Writer(const Store& store) : store_(store) {}

  std::vector<std::byte> image() {
    MemoryFile memory;
    {
      const Handle access(checked(H5Pcreate(H5P_FILE_ACCESS)));
      memory.attach(access);
      // The 1.8 format checksums its metadata, so damage to it is found by HDF5 itself.
      checked(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18));
      fill(access);
    }
    return memory.take();
  }

 private:
  void fill(hid_t access) {
    const Handle root(checked(H5Pcreate(H5P_FILE_CREATE)));
    checked(H5Pset_obj_track_times(root, false));
    const Handle file(checked(H5Fcreate("golden", H5F_ACC_TRUNC, root, access)));
    create_ = checked(H5Pcreate(H5P_DATASET_CREATE));
    const Handle create(create_);
    checked(H5Pset_obj_track_times(create, false));
    checked(H5Pset_layout(create, H5D_CONTIGUOUS));

    for (const auto& [name, value] : store_.attributes) {
      const bool number = (name == "schema" || name == "seed") && is_integer(value);
      if (number)
        add_integer_attribute(file, name, std::stoll(value));
      else
        add_attribute(file, name, value);
    }
    add_groups(file);
    for (const auto& [path, text] : store_.strings) add_text(file, path, text);
    for (const auto& [path, tensor] : store_.tensors) add_tensor(file, path, tensor);
  }

  // Made by hand because groups that HDF5 makes on the way carry time stamps. A path may not be the folder of
  // another.
  void add_groups(hid_t file) const {
    std::set<std::string> folders, leaves;
    const auto note = [&](const std::string& path) {
      if (!valid_path(path)) throw InputError(store_.file, path, "is no possible path of a dataset");
      if (!leaves.insert(path).second) throw InputError(store_.file, path, "is both a string and a tensor");
      for (auto slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1))
        folders.insert(path.substr(0, slash));
    };
    for (const auto& [path, text] : store_.strings) note(path);
    for (const auto& [path, tensor] : store_.tensors) note(path);
    for (const auto& folder : folders)
      if (leaves.count(folder)) throw InputError(store_.file, folder, "is both a dataset and a group");
    const Handle create(checked(H5Pcreate(H5P_GROUP_CREATE)));
    checked(H5Pset_obj_track_times(create, false));
    for (const auto& folder : folders)
      Handle(checked(H5Gcreate2(file, folder.c_str(), H5P_DEFAULT, create, H5P_DEFAULT)));
  }

  void add_text(hid_t file, const std::string& path, const std::string& text) {
    const Handle type = string_type(text);
    const Handle space(checked(H5Screate(H5S_SCALAR)));
    const Handle dataset(
        checked(H5Dcreate2(file, path.c_str(), type, space, H5P_DEFAULT, create_, H5P_DEFAULT)));
    checked(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text.c_str()));
    add_attribute(dataset, "sha256", sha256_hex(text.data(), text.size()));
  }

  void add_tensor(hid_t file, const std::string& path, const HostTensor& tensor) {
    const Handle type = hdf5_type(tensor.dtype);
    const std::vector<hsize_t> dims(tensor.shape.begin(), tensor.shape.end());
    const Handle space(checked(dims.empty()
                                   ? H5Screate(H5S_SCALAR)
                                   : H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr)));
    const Handle dataset(
        checked(H5Dcreate2(file, path.c_str(), type, space, H5P_DEFAULT, create_, H5P_DEFAULT)));
    if (!tensor.bytes.empty())
      checked(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, tensor.bytes.data()));
    add_attribute(dataset, "sha256", sha256_hex(tensor.bytes.data(), tensor.bytes.size()));
  }

  const Store& store_;
  hid_t create_ = -1;
};

}  // namespace

std::vector<std::byte> hdf5_image(const Store& store) {
  // A libhdf5 built without thread safety has global state.
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  return Writer(store).image();
}

}  // namespace meshparity::golden
