// Case lines must survive being printed, pasted and read again.
#include "harness/types/command_line.h"

#include <catch2/catch.hpp>

#include "harness/types/error.h"

namespace meshparity {

TEST_CASE("a case line splits as a shell would") {
  CHECK(split_words("--mesh 'world<=8' --tensor \"a b\"  # why") ==
        std::vector<std::string>{"--mesh", "world<=8", "--tensor", "a b"});
  CHECK(split_words("   # only a comment").empty());
  CHECK(split_words("a 'b c' \"d\"'e' \\'f '' ") == std::vector<std::string>{"a", "b c", "de", "'f", ""});
  CHECK_THROWS_AS(split_words("--mesh 'tp2"), InputError);
}

TEST_CASE("a quoted word is read as the word it was") {
  for (const std::string word :
       {"", "plain", "*norm*", "it's", "a b", "~", "#7", "x;y", "!", "\\", "\"", "$HOME"}) {
    INFO(word);
    CHECK(split_words(quoted(word)) == std::vector<std::string>{word});
  }
  CHECK(quoted("model.layers.0.mlp.gate.weight") == "model.layers.0.mlp.gate.weight");
}

}  // namespace meshparity
