// Arrays of numpy inside a .pt: as numpy wrote them (fixtures, golden/upstream/dump_fixtures.py), and damaged
// ones.
#include "golden/dumps/dump_fixture.h"
#include "golden/dumps/formats.h"
#include "harness/types/generator.h"

namespace meshparity::dumps::numpy_pickle_test {

using Catch::Contains;
using golden::input_error;
using golden::slurp;
using golden::spill;
using golden::TemporaryFolder;

const Value& member_of(const TreeRef& tree, const std::string& name) {
  const Value* value = tree->root->member(name);
  REQUIRE(value);
  return *value;
}

TEST_CASE("numpy arrays of every type of number have the values that numpy wrote, by both protocols") {
  const std::vector<std::pair<const char*, Element>> types = {
      {"f8", Element::f64}, {"f4", Element::f32}, {"f2", Element::f16}, {"i8", Element::i64},
      {"i4", Element::i32}, {"i2", Element::i16}, {"i1", Element::i8},  {"u8", Element::u64},
      {"u4", Element::u32}, {"u2", Element::u16}, {"u1", Element::u8},  {"bool", Element::boolean}};
  for (const char* file : {"numpy_2.pt", "numpy_4.pt"}) {
    const TreeRef tree = read_torch(fixture(file));
    for (const auto& [name, element] : types) {
      INFO(file << " " << name);
      const Value& value = member_of(tree, name);
      REQUIRE(value.kind == Value::Kind::array);
      CHECK(value.array.element == element);
      CHECK(value.array.shape == std::vector<std::int64_t>{2, 3});
      const bool boolean = element == Element::boolean;
      CHECK(value.array.read() ==
            (boolean ? std::vector<double>{0, 1, 1, 1, 1, 1} : std::vector<double>{0, 1, 2, 3, 4, 5}));
    }
    INFO(file);
    CHECK(member_of(tree, "negative").array.read() == std::vector<double>{-1, -128, 127});
    CHECK(member_of(tree, "fortran").array.read() == std::vector<double>{0, 1, 2, 3, 4, 5});
    CHECK(member_of(tree, "view").array.read() == std::vector<double>{0, 3, 6, 9});
    CHECK(member_of(tree, "empty").array.read().empty());
    CHECK(member_of(tree, "empty").array.shape == std::vector<std::int64_t>{0, 3});
    CHECK(member_of(tree, "zero_d").array.read() == std::vector<double>{7.5});
    CHECK(member_of(tree, "number").number == -0.25);
    CHECK(member_of(tree, "objects").items.at(1)->text == "b");
    CHECK(member_of(tree, "words").kind == Value::Kind::opaque);
    const std::vector<double> bytes = member_of(tree, "high_bytes").array.read();
    REQUIRE(bytes.size() == 256);
    for (std::size_t i = 0; i < bytes.size(); ++i) CHECK(bytes[i] == static_cast<double>(i));
  }
}

TEST_CASE("routes and logprobs as numpy arrays are read like tensors") {
  const auto samples = samples_of(fixture("numpy_routes.pt"));
  REQUIRE(samples.size() == 1);
  CHECK(samples[0].train.logprobs == std::vector<double>{-1, -2, -3});
  CHECK(samples[0].train.route_width == 2);
  CHECK(samples[0].train.routes == std::vector<std::int64_t>{0, 1, 2, 3, 4, 5});
  CHECK(samples[0].rollout.routes == std::vector<std::int64_t>{0, 1, 2, 9, 4, 5});
}

TEST_CASE("big-endian arrays, classes of their own and other functions of numpy are refused by name") {
  CHECK_THAT(input_error([] { read_torch(fixture("numpy_big_endian.pt")); }),
             Contains("big-endian order ('f4')"));
  const TemporaryFolder folder;
  const auto said = [&](const std::string& pickle) {
    spill(folder.file("d.pt"), torch_file_of(pickle));
    return input_error([&] { read_torch(folder.file("d.pt")); });
  };
  CHECK_THAT(said("\x80\x02"
                  "cnumpy\nmatrix\n."),
             Contains("names 'numpy.matrix', which is refused"));
  CHECK_THAT(said("\x80\x02"
                  "cnumpy\nload\n."),
             Contains("names 'numpy.load'"));
  CHECK_THAT(said("\x80\x02"
                  "cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\n)tR."),
             Contains("damaged"));
  CHECK_THAT(said("\x80\x02"
                  "cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\n\x85R."),
             Contains("a class of its own"));
}

// A pickle of one array: shape (n,), type, content in latin1, given by its parts.
std::string array_pickle(char count, const std::string& type, const std::string& content) {
  std::string text =
      "\x80\x02"
      "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK";
  text += std::string("\0\x85", 2);
  text += std::string("X\x01\0\0\0b", 6) + "tR(K\x01K" + std::string(1, count) +
          "\x85"
          "cnumpy\ndtype\nX" +
          std::string(1, static_cast<char>(type.size())) + std::string("\0\0\0", 3) + type +
          "\x85R\x89"
          "c_codecs\nencode\nX" +
          std::string(1, static_cast<char>(content.size())) + std::string("\0\0\0", 3) + content +
          std::string("X\x06\0\0\0latin1", 11) + "\x86Rtb.";
  return text;
}

TEST_CASE("an array that claims another size than its bytes, and bytes that are none, are damaged") {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& pickle) {
    spill(folder.file("d.pt"), torch_file_of(pickle));
    return read_torch(folder.file("d.pt"));
  };
  CHECK(read(array_pickle(3, "u1", "abc"))->root->array.read() == std::vector<double>{97, 98, 99});
  CHECK(read(array_pickle(1, "u1", "\xc3\xbf"))->root->array.read() == std::vector<double>{255});
  CHECK(read(array_pickle(2, "U4", "abc"))->root->kind == Value::Kind::opaque);
  CHECK_THAT(input_error([&] { read(array_pickle(4, "u1", "abc")); }),
             Contains("d.pt: damaged (its pickle has a numpy array that is shorter"));
  CHECK_THAT(input_error([&] { read(array_pickle(2, "u1", "abc")); }),
             Contains("another size than its shape says"));
  CHECK_THAT(input_error([&] { read(array_pickle(3, "f8", "abc")); }), Contains("shorter than its shape"));
  CHECK_THAT(input_error([&] { read(array_pickle(1, "u1", "\xe2\x82\xac")); }),
             Contains("bytes that are no latin1 text"));
  CHECK_THAT(input_error([&] { read(array_pickle(1, "u1", "\xc3")); }),
             Contains("bytes that are no latin1 text"));
}

TEST_CASE("bytes that are encoded again and again do not fill the memory") {
  // One text of 64 KiB, encoded a thousand times by a few bytes each.
  std::string pickle = "\x80\x02]X" + std::string("\0\0\x01\0", 4) + std::string(1 << 16, 'x') +
                       "q\x01"
                       "0";
  for (int i = 0; i < 1000; ++i) pickle += std::string("c_codecs\nencode\nh\x01X\x06\0\0\0latin1\x86Ra", 32);
  const TemporaryFolder folder;
  spill(folder.file("d.pt"), torch_file_of(pickle + "."));
  CHECK_THAT(input_error([&] { read_torch(folder.file("d.pt")); }), Contains("again and again"));
}

TEST_CASE("a .pt with numpy arrays cut short or changed at any byte ends in one line or in values") {
  const TemporaryFolder folder;
  const std::string whole = slurp(fixture("numpy_2.pt"));
  for (std::size_t bytes = 0; bytes < whole.size(); bytes += 11) {
    spill(folder.file("d"), whole.substr(0, bytes));
    CHECK_THAT(input_error([&] { read_torch(folder.file("d")); }), Contains("d: "));
  }
  const Generator random(9, "numpy_pickle_test");
  for (std::uint64_t i = 0; i < 1500; ++i) {
    std::string changed = whole;
    changed[static_cast<std::size_t>(random.below(2 * i, static_cast<std::int64_t>(whole.size())))] =
        static_cast<char>(random.bits(2 * i + 1));
    spill(folder.file("d"), changed);
    const std::string message = input_error([&] {
      const TreeRef tree = read_torch(folder.file("d"));
      for (const auto& [name, value] : tree->root->members)
        if (value->kind == Value::Kind::array) value->array.read();
    });  // anything but InputError ends the test
    CHECK(message.find('\n') == std::string::npos);
  }
}

}  // namespace meshparity::dumps::numpy_pickle_test
