// State dicts of torch, as torch wrote them and as they are damaged.
#include "golden/dumps/torch_weights.h"

#include "golden/dumps/dump_fixture.h"
#include "golden/weight_files.h"
#include "harness/types/generator.h"

namespace meshparity::dumps::torch_weights_test {

using Catch::Contains;
using golden::input_error;
using golden::slurp;
using golden::spill;
using golden::TemporaryFolder;

std::vector<double> values_of(const golden::WeightViews& views, const std::string& name) {
  for (const auto& [stored, view] : views.views)
    if (stored == name) {
      std::vector<double> values;
      for (std::int64_t i = 0; i < view.numel(); ++i) values.push_back(view.at(i));
      return values;
    }
  return {};
}

TEST_CASE("a checkpoint of a wrapped module and a dictionary of parameters give the values torch wrote") {
  const auto module = torch_weights(fixture("weights_module.pt"));
  CHECK(module.views.size() == 2);
  CHECK(values_of(module, "0.weight") == std::vector<double>{0, 0.25, 0.5, 0.75, 1, 1.25});
  CHECK(values_of(module, "0.bias") == std::vector<double>{-1, 1});
  CHECK(module.views[0].second.dtype == DType::bfloat16);
  const auto parameters = torch_weights(fixture("weights_parameters.pt"));
  CHECK(parameters.views.size() == 4);
  CHECK(values_of(parameters, "turned") == std::vector<double>{0, 3, 1, 4, 2, 5});
  CHECK(values_of(parameters, "tied") == values_of(module, "0.weight"));
  parameters.forget();
  CHECK(values_of(parameters, "tied") == values_of(module, "0.weight"));
}

TEST_CASE("a .pt that holds no tensors, a damaged one and one that would run code are refused") {
  CHECK_THAT(input_error([] { torch_weights(fixture("hostile.pt")); }),
             Contains("names 'posix.system', which is refused"));
  CHECK_THAT(input_error([] { torch_weights(fixture("slime.pt")); }),
             Contains("slime.pt: holds no state dict"));
  const TemporaryFolder folder;
  spill(folder.file("i.pt"),
        state_dict_of({{"w", HostTensor::from(DType::float32, {2}, std::vector<float>{1, 2})}}));
  CHECK(values_of(torch_weights(folder.file("i.pt")), "w") == std::vector<double>{1, 2});
  const std::string whole = slurp(fixture("weights_parameters.pt"));
  for (std::size_t bytes = 0; bytes < whole.size(); bytes += 13) {
    spill(folder.file("d"), whole.substr(0, bytes));
    CHECK_THAT(input_error([&] { torch_weights(folder.file("d")); }), Contains("d: "));
  }
  const Generator random(11, "torch_weights_test");
  for (std::uint64_t i = 0; i < 1000; ++i) {
    std::string changed = whole;
    changed[static_cast<std::size_t>(random.below(2 * i, static_cast<std::int64_t>(whole.size())))] =
        static_cast<char>(random.bits(2 * i + 1));
    spill(folder.file("d"), changed);
    const std::string message = input_error([&] {
      const auto views = torch_weights(folder.file("d"));
      for (const auto& [name, view] : views.views) values_of(views, name);
    });  // anything but InputError ends the test
    CHECK(message.find('\n') == std::string::npos);
  }
}

TEST_CASE("weights spilled to a file without a name come back bit by bit, also after they were forgotten") {
  golden::WeightViews views;
  {
    golden::WeightSpill spill;
    spill.add("a", HostTensor::from(DType::float64, {3}, std::vector<double>{1, 2, 3}).view());
    spill.add("empty", HostTensor::zeros(DType::float32, {0, 4}).view());
    spill.add("b", HostTensor::from(DType::float32, {2}, std::vector<float>{4, 5}).view());
    views = spill.views();
  }
  views.forget();
  CHECK(values_of(views, "a") == std::vector<double>{1, 2, 3});
  CHECK(values_of(views, "b") == std::vector<double>{4, 5});
  CHECK(values_of(views, "empty").empty());
}

}  // namespace meshparity::dumps::torch_weights_test
