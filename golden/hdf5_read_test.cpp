// Files that other programs write: every storage a golden may use reads the same, every other one is refused
// by name.
#include <catch2/catch.hpp>

#include "golden/hdf5_handle.h"
#include "golden/test_files.h"

namespace meshparity::golden {
namespace {

using Catch::Contains;

// A file under construction with libhdf5's own calls.
class RawFile {
 public:
  explicit RawFile(const std::string& path)
      : file_(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT)),
        groups_(H5Pcreate(H5P_LINK_CREATE)),
        create(H5Pcreate(H5P_DATASET_CREATE)) {
    H5Pset_create_intermediate_group(groups_, 1);
  }
  Handle add(const std::string& path, hid_t type, const std::vector<hsize_t>& dims) {
    const Handle space(dims.empty() ? H5Screate(H5S_SCALAR)
                                    : H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr));
    return Handle(H5Dcreate2(file_, path.c_str(), type, space, groups_, create, H5P_DEFAULT));
  }
  void add_doubles(const std::string& path, hid_t type, const std::vector<hsize_t>& dims,
                   const double* data) {
    const Handle dataset = add(path, type, dims);
    REQUIRE(dataset >= 0);
    REQUIRE(H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
  }
  hid_t id() const { return file_; }

 private:
  Handle file_, groups_;

 public:
  Handle create;  // properties of datasets still to be added
};

const std::string kLogits = "expected/logits";
const std::vector<double> kValues = {1.5, -2, 3, 4, 5, 6.25, 7, 8, 9, 10, 11, 12};

// Reads the file that `build` makes as a dump.
template <class Build>
Store read_built(Build build) {
  const TemporaryFolder folder;
  {
    RawFile file(folder.file("d.h5"));
    build(file);
  }
  return read(folder.file("d.h5"), Kind::dump);
}

template <class Build>
std::string refusal_of(Build build) {
  return input_error([&] { read_built(build); });
}

void check_values(const Store& store) {
  const HostTensor& tensor = store.tensors.at(kLogits);
  CHECK(tensor.shape == Shape{4, 3});
  for (std::size_t i = 0; i < kValues.size(); ++i)
    CHECK(tensor.view().at(static_cast<std::int64_t>(i)) == kValues[i]);
}

}  // namespace

TEST_CASE("contiguous, compact, chunked, compressed and big-endian storage read the same") {
  const auto with = [](hid_t type, auto set) {
    check_values(read_built([&](RawFile& file) {
      set(file.create);
      file.add_doubles(kLogits, type, {4, 3}, kValues.data());
    }));
  };
  const hsize_t chunk[2] = {3, 2};
  with(H5T_IEEE_F64LE, [](hid_t) {});
  with(H5T_IEEE_F64BE, [](hid_t) {});
  with(H5T_IEEE_F32LE, [](hid_t) {});
  with(H5T_IEEE_F64LE, [](hid_t p) { H5Pset_layout(p, H5D_COMPACT); });
  with(H5T_IEEE_F64LE, [&](hid_t p) { H5Pset_chunk(p, 2, chunk); });
  with(H5T_IEEE_F64LE, [&](hid_t p) { H5Pset_chunk(p, 2, chunk), H5Pset_deflate(p, 6); });
  with(H5T_IEEE_F64BE, [&](hid_t p) {
    H5Pset_chunk(p, 2, chunk), H5Pset_shuffle(p), H5Pset_deflate(p, 1), H5Pset_fletcher32(p);
  });
}

TEST_CASE("fixed and variable strings read the same, as datasets and as attributes") {
  const std::string text = R"({"loss": "sum", "lr": 0.001, "betas": [0.9, 0.95], "eps": 1e-6,)"
                           R"( "weight_decay": 0.1, "max_grad_norm": 0.5, "num_tokens": 9})";
  const auto read_text = [&](std::size_t size, H5T_str_t padding, char fill) {
    const Store store = read_built([&](RawFile& file) {
      const Handle type(H5Tcopy(H5T_C_S1));
      H5Tset_size(type, size);
      H5Tset_strpad(type, padding);
      std::string padded = text;
      if (size != H5T_VARIABLE) padded.resize(size, fill);
      const char* pointer = text.c_str();
      const void* data = size == H5T_VARIABLE ? static_cast<const void*>(&pointer) : padded.data();
      const Handle dataset = file.add("train", type, {});
      REQUIRE(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
      const Handle space(H5Screate(H5S_SCALAR));
      const Handle attribute(H5Acreate2(file.id(), "reason", type, space, H5P_DEFAULT, H5P_DEFAULT));
      REQUIRE(H5Awrite(attribute, type, data) >= 0);
    });
    CHECK(store.strings.at("train") == text);
    CHECK(store.attributes.at("reason") == text);
  };
  read_text(text.size(), H5T_STR_NULLPAD, '\0');
  read_text(text.size() + 5, H5T_STR_NULLPAD, '\0');
  read_text(text.size() + 1, H5T_STR_NULLTERM, '\0');
  read_text(text.size() + 7, H5T_STR_SPACEPAD, ' ');
  read_text(H5T_VARIABLE, H5T_STR_NULLTERM, '\0');
}

TEST_CASE("numbers are read as attributes, a schema of another version among them") {
  const auto with_schema = [](hid_t type, double value) {
    return refusal_of([&](RawFile& file) {
      const Handle space(H5Screate(H5S_SCALAR));
      const Handle attribute(H5Acreate2(file.id(), "schema", type, space, H5P_DEFAULT, H5P_DEFAULT));
      H5Awrite(attribute, H5T_NATIVE_DOUBLE, &value);
    });
  };
  CHECK(with_schema(H5T_STD_I64LE, 1).empty());
  CHECK(with_schema(H5T_STD_U8BE, 1).empty());
  CHECK(with_schema(H5T_IEEE_F64LE, 1).empty());
  CHECK_THAT(with_schema(H5T_STD_I32LE, 3), Contains("attribute schema: is 3"));
}

TEST_CASE("a dtype, a dataspace and a filter that no golden has are refused by name") {
  CHECK_THAT(refusal_of([](RawFile& file) { file.add(kLogits, H5T_STD_U16LE, {2}); }),
             Contains(kLogits + ": its dtype is not one of float64"));
  CHECK_THAT(refusal_of([](RawFile& file) {
               const Handle complex(H5Tcreate(H5T_COMPOUND, 16));
               H5Tinsert(complex, "r", 0, H5T_IEEE_F64LE);
               H5Tinsert(complex, "i", 8, H5T_IEEE_F64LE);
               file.add(kLogits, complex, {2});
             }),
             Contains(kLogits + ": its dtype is not"));
  CHECK_THAT(
      refusal_of([](RawFile& file) {
        const Handle space(H5Screate(H5S_NULL));
        Handle(H5Dcreate2(file.id(), "inputs", H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
      }),
      Contains("inputs: holds nothing"));
  CHECK_THAT(refusal_of([](RawFile& file) {
               const hsize_t chunk[1] = {2};
               H5Pset_chunk(file.create, 1, chunk);
               H5Pset_scaleoffset(file.create, H5Z_SO_FLOAT_DSCALE, 2);
               file.add_doubles(kLogits, H5T_IEEE_F64LE, {4}, kValues.data());
             }),
             Contains(kLogits + ": filter 6 is not supported"));
  CHECK_THAT(refusal_of([](RawFile& file) { file.add(kLogits, H5T_IEEE_F64LE, std::vector<hsize_t>(9, 1)); }),
             Contains(kLogits + ": has 9 dimensions"));
}

TEST_CASE("a file reaches nothing outside itself") {
  const TemporaryFolder folder;
  spill(folder.file("secret"), std::string(96, 's'));
  CHECK_THAT(refusal_of([&](RawFile& file) {
               H5Pset_external(file.create, folder.file("secret").c_str(), 0, 96);
               file.add(kLogits, H5T_IEEE_F64LE, {12});
             }),
             Contains(kLogits + ": its data lies in another file"));
  CHECK_THAT(refusal_of([&](RawFile& file) {
               H5Lcreate_external(folder.file("other.h5").c_str(), "/x", file.id(), "x", H5P_DEFAULT,
                                  H5P_DEFAULT);
             }),
             Contains("x: is a link"));
  CHECK_THAT(
      refusal_of([](RawFile& file) { H5Lcreate_soft("/y", file.id(), "x", H5P_DEFAULT, H5P_DEFAULT); }),
      Contains("x: is a link"));
}

TEST_CASE("a group that contains itself and a dataset that claims terabytes end in an error") {
  CHECK_THAT(refusal_of([](RawFile& file) {
               const Handle group(H5Gcreate2(file.id(), "a", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
               H5Lcreate_hard(file.id(), "a", group, "a", H5P_DEFAULT, H5P_DEFAULT);
               H5Lcreate_hard(file.id(), "a", group, "b", H5P_DEFAULT, H5P_DEFAULT);
             }),
             Contains("damaged"));
  CHECK_THAT(refusal_of([](RawFile& file) {
               const hsize_t chunk[1] = {1 << 20};
               H5Pset_chunk(file.create, 1, chunk);
               file.add(kLogits, H5T_IEEE_F64LE, {hsize_t{1} << 38});
             }),
             Contains(kLogits + ": damaged (claims more data"));
}

}  // namespace meshparity::golden
