// What is damaged, hostile or none of it is one clear line that names the file; nothing in a pickle runs.
#include <filesystem>

#include "golden/dumps/dump_fixture.h"
#include "harness/types/generator.h"

namespace meshparity::dumps::damage_test {

using Catch::Contains;
using golden::slurp;
using golden::spill;
using golden::TemporaryFolder;

// What reading a file of these bytes says.
std::string said(const std::string& bytes, const std::string& name = "d.pt") {
  const TemporaryFolder folder;
  spill(folder.file(name), bytes);
  return refusal(folder.file(name));
}

TEST_CASE("a pickle that would run a command is refused by the command's name") {
  const std::string marker = "/tmp/meshparity-was-run";
  CHECK_THAT(refusal(fixture("hostile.pt")),
             Contains("hostile.pt: data.pkl: names 'posix.system', which is refused"));
  CHECK_FALSE(std::filesystem::exists(marker));
  CHECK_THAT(said(torch_file_of("\x80\x02"
                                "cos\nsystem\nX\x02\0\0\0ls\x85R.")),
             Contains("names 'os.system'"));
  CHECK_THAT(said(torch_file_of(std::string("\x80\x04\x8c\x08"
                                            "builtins\x8c\x04"
                                            "eval\x93.",
                                            19))),
             Contains("names 'builtins.eval'"));
  CHECK_THAT(said(torch_file_of("\x80\x02"
                                "cnumpy.core.multiarray\nfromfile\n.")),
             Contains("names 'numpy.core.multiarray.fromfile'"));
  CHECK_THAT(said(torch_file_of("\x80\x02}\x81.")), Contains("pickle instruction 0x81"));
  CHECK_THAT(said(torch_file_of("\x80\x02"
                                "cverl.protocol\nDataProto\n)\x81.")),
             Contains("names 'verl.protocol.DataProto'"));
}

TEST_CASE("a pickle that breaks its own rules is damaged") {
  for (const std::string& pickle :
       {std::string(""), std::string("\x80\x02"), std::string("\x80\x02}"), std::string("\x80\x02."),
        std::string("\x80\x02}}."), std::string("\x80\x02u."), std::string("\x80\x02}(K\x01u."),
        std::string("\x80\x02h\x05."), std::string("\x80\x02R."), std::string("\x80\x02)R."),
        std::string("\x80\x02K\x01"
                    "a."),
        std::string("\x80\x02X\xff\xff\xff\x7f"
                    "abc."),
        std::string("\x80\x09}."), std::string("\x80\x02Q."), std::string("\x80\x02)Q."),
        std::string("\x80\x02"
                    "0."),
        std::string("\x80\x02"
                    "b.")}) {
    INFO(pickle.size());
    CHECK_THAT(said(torch_file_of(pickle)), Contains("d.pt: damaged (its pickle"));
  }
}

TEST_CASE("a tensor that claims more than its storage is refused before anything is allocated") {
  const auto tensor = [](const std::string& count, const std::string& offset, const std::string& size,
                         const std::string& stride) {
    return "\x80\x02}X\x0e" + std::string("\0\0\0", 3) +
           "train_logprobsctorch._utils\n_rebuild_tensor_v2\n((X\x07" + std::string("\0\0\0", 3) +
           "storagectorch\nFloatStorage\nX\x01" + std::string("\0\0\0", 3) + "0X\x03" +
           std::string("\0\0\0", 3) + "cpu" + count + "tQ" + offset + size + stride + "\x89}tRs.";
  };
  const std::string k16 = "K\x10", k0 = std::string("K\0", 2), big = "J\xff\xff\xff\x7f";
  CHECK(said(torch_file_of(tensor(k16, k0, "K\x10\x85", "K\x01\x85"))).empty());
  CHECK_THAT(said(torch_file_of(tensor(big, k0, big + "\x85", "K\x01\x85"))),
             Contains("data/0: is shorter than its tensors need"));
  CHECK_THAT(said(torch_file_of(tensor(k16, k0, big + "\x85", "K\x01\x85"))),
             Contains("outside its storage"));
  CHECK_THAT(said(torch_file_of(tensor(k16, k0, "K\x11\x85", "K\x01\x85"))), Contains("outside its storage"));
  CHECK_THAT(said(torch_file_of(tensor(k16, "K\x01", "K\x10\x85", "K\x01\x85"))),
             Contains("outside its storage"));
  CHECK_THAT(said(torch_file_of(tensor(k16, k0, "K\x10\x85", "K\x02\x85"))), Contains("outside its storage"));
  // Strides of zero: 2^62 elements out of sixteen.
  const std::string huge = big + big + "\x86", zeros = k0 + k0 + "\x86";
  CHECK_THAT(said(torch_file_of(tensor(k16, k0, huge, zeros))), Contains("d.pt:"));
}

TEST_CASE("files cut short at any byte and files with any byte changed end in one line or in values") {
  const TemporaryFolder folder;
  for (const char* name : {"slime.pt", "view.pt", "flat.npz", "square.npz"}) {
    const std::string whole = slurp(fixture(name));
    for (std::size_t bytes = 0; bytes < whole.size(); bytes += 7) {
      spill(folder.file("d"), whole.substr(0, bytes));
      const std::string message = refusal(folder.file("d"));
      INFO(name << " cut to " << bytes);
      CHECK_THAT(message, Contains("d: "));
      CHECK(message.find('\n') == std::string::npos);
    }
    const Generator random(7, name);
    for (std::uint64_t i = 0; i < 500; ++i) {
      std::string changed = whole;
      changed[static_cast<std::size_t>(random.below(2 * i, static_cast<std::int64_t>(whole.size())))] =
          static_cast<char>(random.bits(2 * i + 1));
      spill(folder.file("d"), changed);
      const std::string message = refusal(folder.file("d"));  // anything but InputError ends the test
      CHECK(message.find('\n') == std::string::npos);
    }
  }
}

TEST_CASE("zip files that lie about sizes are refused") {
  const std::string good = zip_of({{"a.npy", "x"}, {"b.npy", "y"}});
  CHECK_THAT(said(good), Contains("a: is no .npy array"));
  std::string overlap = zip_of({{"a.npy", std::string(200, 'x')}, {"b.npy", std::string(200, 'x')}});
  const std::size_t second = overlap.rfind("PK\x01\x02");
  overlap.replace(second + 42, 4, std::string(4, '\0'));
  CHECK_THAT(said(overlap), Contains("its entries overlap"));
  std::string bomb = slurp(fixture("square.npz"));
  const std::size_t entry = bomb.find("PK\x01\x02");
  bomb.replace(entry + 24, 4, "\xf0\xff\xff\xff");
  CHECK_THAT(said(bomb), Contains("uncompressed"));
  CHECK_THAT(said(zip_of({{"x.txt", "x"}})), Contains("x.txt: is no .npy array"));
  CHECK_THAT(said(zip_of({{"archive/data.pk", "x"}})), Contains("is no .npy array"));
  const auto npy = [](const std::string& header) {
    std::string out = "\x93NUMPY" + std::string("\x01\0", 2);
    put(out, header.size(), 2);
    return zip_of({{"train_logprobs.npy", out + header}});
  };
  CHECK_THAT(said(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }")),
             Contains("train_logprobs: is larger than its entry"));
  CHECK_THAT(said(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,), }")),
             Contains("impossible shape"));
  CHECK_THAT(said(npy("{'descr': '<c8', 'fortran_order': False, 'shape': (0,), }")),
             Contains("unsupported type '<c8'"));
  CHECK_THAT(refusal(fixture("objects.npz")), Contains("train_logprobs: holds pickled Python objects"));
}

TEST_CASE("JSON that is none, NaN, deep nesting and fields that are not there") {
  CHECK_THAT(said(R"({"train_logprobs": [-1, NaN], "rollout_logprobs": [-1, -2]})", "d.jsonl"),
             Contains("d.jsonl: line 1: is not JSON") && Contains("NaN and Infinity are no JSON"));
  CHECK_THAT(said("{\"train_logprobs\": [-1]\n", "d.json"), Contains("d.json: is not JSON: at byte"));
  CHECK_THAT(said("{\"logprobs\": " + std::string(100000, '[') + std::string(100000, ']') + "}", "d.json"),
             Contains("nested deeper than 64"));
  CHECK_THAT(said("{\"a\": [1], \"b\": 2}\n", "d.jsonl"),
             Contains("line 1: holds no logprobs") && Contains("it has a, b"));
  CHECK_THAT(said("[1, 2]\n", "d.json"), Contains("is no dictionary of fields"));
  CHECK_THAT(said(R"({"choices": [{"text": "x"}]})", "d.json"), Contains("choices[].logprobs: is missing"));
  CHECK_THAT(said(R"({"meta_info": {"id": 1}})", "d.json"),
             Contains("meta_info.output_token_logprobs: is missing"));
  CHECK_THAT(said(R"({"train_logprobs": [[-1], [-2]], "rollout_logprobs": [[-1], [-2], [-3]]})", "d.json"),
             Contains("rollout logprobs have 3 rows"));
  CHECK_THAT(said(R"({"train_logprobs": [-1, -2], "rollout_logprobs": [-1, -2], "document_offsets": [0, 3]})",
                  "d.json"),
             Contains("document_offsets: must rise"));
  std::string many = "{\"logprobs\": [";
  for (int i = 0; i < 2'100'000; ++i) many += "{},";
  CHECK_THAT(said(many + "{}]}", "d.json"), Contains("more than 2000000 separate values"));
}

TEST_CASE("nothing, a folder, a name without files and another format are told apart") {
  const TemporaryFolder folder;
  CHECK_THAT(refusal(folder.file("none.pt")), Contains("none.pt: cannot be read"));
  CHECK_THAT(refusal(folder.file("none*.pt")), Contains("none*.pt: no such file"));
  CHECK_THAT(refusal(folder.file("")), Contains("is not a file"));
  CHECK_THAT(said(""), Contains("d.pt: is empty"));
  CHECK_THAT(said("hello, world"), Contains("is in no known format"));
  CHECK_THAT(said("\n\n \n{"), Contains("d.pt: line 1: is not JSON"));
  CHECK_THAT(said("\x80\x02}q."), Contains("format from before 1.6"));
  CHECK_THAT(said("\x89HDF\r\n\x1a\n garbage"), Contains("damaged"));
}

}  // namespace meshparity::dumps::damage_test
