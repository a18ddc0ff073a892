#include "golden/dumps/pickle_objects.h"

#include <map>

#include "harness/types/error.h"

namespace meshparity::dumps {
namespace {

// Storage classes of torch and the element each holds; UntypedStorage counts bytes.
const std::map<std::string, Element>& storages() {
  static const std::map<std::string, Element> table = {
      {"torch.DoubleStorage", Element::f64}, {"torch.FloatStorage", Element::f32},
      {"torch.HalfStorage", Element::f16},   {"torch.BFloat16Storage", Element::bf16},
      {"torch.LongStorage", Element::i64},   {"torch.IntStorage", Element::i32},
      {"torch.ShortStorage", Element::i16},  {"torch.CharStorage", Element::i8},
      {"torch.ByteStorage", Element::u8},    {"torch.BoolStorage", Element::boolean}};
  return table;
}

// The same thing has two names: numpy 2 moved core to _core, Python 3 renamed __builtin__.
const std::map<std::string, std::string>& accepted_names() {
  static const std::map<std::string, std::string> table = {
      {"torch._utils._rebuild_tensor_v2", "tensor"},
      {"torch._utils._rebuild_parameter", "parameter"},
      {"collections.OrderedDict", "dictionary"},
      {"torch.Size", "size"},
      {"torch.device", "device"},
      {"numpy.core.multiarray._reconstruct", "numpy.reconstruct"},
      {"numpy._core.multiarray._reconstruct", "numpy.reconstruct"},
      {"numpy.core.multiarray.scalar", "numpy.scalar"},
      {"numpy._core.multiarray.scalar", "numpy.scalar"},
      {"numpy.ndarray", "numpy.ndarray"},
      {"numpy.dtype", "numpy.dtype"},
      {"_codecs.encode", "bytes of text"},
      {"__builtin__.bytes", "bytes"},
      {"builtins.bytes", "bytes"}};
  return table;
}

// What an array of numpy is until its content comes, and what stands before the type of a dtype.
constexpr const char* kEmptyArray = "numpy array";
const std::string kType = "numpy type ";

double number_at(const Value& list, std::size_t i) {
  if (i < list.numbers.size()) return list.numbers[i];
  if (i < list.items.size() && list.items[i]->kind == Value::Kind::number) return list.items[i]->number;
  return -1;
}

bool is_type(const Value& value) {
  return value.kind == Value::Kind::opaque && value.text.rfind(kType, 0) == 0;
}

}  // namespace

void pickle_damaged(const std::string& file, const std::string& what) {
  throw InputError(file + ": damaged (its pickle " + what + ")");
}

void pickle_refused(const std::string& file, const std::string& what) {
  throw InputError(
      file, "data.pkl",
      what +
          "; only tensors, numbers, texts, lists, dictionaries and numpy arrays are read, nothing in a "
          "pickle is run");
}

const Value* PickleObjects::opaque(std::string name) {
  Value* value = tree_.make(Value::Kind::opaque);
  value->text = std::move(name);
  return value;
}

const Value* PickleObjects::global(const std::string& name) {
  if (storages().count(name)) return opaque(name);
  const auto found = accepted_names().find(name);
  if (found == accepted_names().end())
    pickle_refused(file_, "names '" + name.substr(0, 200) + "', which is refused");
  return opaque(found->second);
}

std::vector<std::int64_t> PickleObjects::integers(const Value* list) const {
  std::vector<std::int64_t> out;
  if (!list || list->kind != Value::Kind::list || !list->items.empty() || list->numbers.size() > 8)
    pickle_damaged(file_, "has a tensor with an impossible shape");
  for (const double number : list->numbers) {
    if (!(number >= 0 && number < 1e15)) pickle_damaged(file_, "has a tensor with an impossible shape");
    out.push_back(static_cast<std::int64_t>(number));
  }
  return out;
}

const Value* PickleObjects::persistent(const Value* id) {
  if (!id || id->kind != Value::Kind::list || id->items.size() < 5 || id->items[0]->text != "storage" ||
      id->items[2]->kind != Value::Kind::text)
    pickle_damaged(file_, "has a storage that is none");
  const auto type = storages().find(id->items[1]->text);
  if (type == storages().end())
    pickle_refused(
        file_, "has a storage of type '" + id->items[1]->text.substr(0, 100) + "', which is not supported");
  const Storage found = find_(id->items[2]->text);
  Value* value = tree_.make(Value::Kind::array);
  value->array = {found.bytes, found.offset, type->second, {}, {}, false};
  const double count = number_at(*id, 4);
  if (!(count >= 0 && count <= static_cast<double>(found.size / element_size(type->second))))
    throw InputError(file_, "data/" + id->items[2]->text.substr(0, 100), "is shorter than its tensors need");
  value->array.shape = {static_cast<std::int64_t>(count)};
  value->array.strides = {1};
  return value;
}

const Value* PickleObjects::rebuild_tensor(const Value& arguments) {
  if (arguments.items.size() < 4 || arguments.items[0]->kind != Value::Kind::array ||
      arguments.items[0]->array.shape.size() != 1)
    pickle_damaged(file_, "has a tensor without a storage");
  const Array& storage = arguments.items[0]->array;
  const auto outside = [&] { pickle_damaged(file_, "has a tensor outside its storage"); };
  const double offset = number_at(arguments, 1);
  Array array = storage;
  array.shape = integers(arguments.items[2]), array.strides = integers(arguments.items[3]);
  if (!(offset >= 0 && offset <= static_cast<double>(storage.shape[0]))) outside();
  // The tensor must lie in its storage, not merely in its file.
  std::int64_t last = static_cast<std::int64_t>(offset), numel = 1;
  if (array.shape.size() != array.strides.size())
    pickle_damaged(file_, "has a tensor with an impossible shape");
  for (std::size_t i = 0; i < array.shape.size(); ++i) {
    if (array.shape[i] == 0) numel = 0;
    if (array.shape[i] > storage.shape[0] || (array.shape[i] > 1 && array.strides[i] > storage.shape[0])) {
      if (numel) outside();
    }
    // Divided, not multiplied: a product of two claims may pass 64 bits.
    if (numel && array.shape[i] > 1 && array.strides[i] > storage.shape[0] / (array.shape[i] - 1)) outside();
    if (numel) last += (array.shape[i] - 1) * array.strides[i];
    if (numel && last >= storage.shape[0]) outside();
  }
  array.offset += static_cast<std::uint64_t>(offset) * element_size(array.element);
  array.check("data.pkl");
  Value* value = tree_.make(Value::Kind::array);
  value->array = std::move(array);
  return value;
}

// Protocol 2 has no bytes: they are a text of code points 0 to 255, encoded as latin1.
const Value* PickleObjects::bytes_of_text(const Value& arguments) {
  if (arguments.items.size() != 2 || arguments.items[0]->kind != Value::Kind::text ||
      (arguments.items[1]->text != "latin1" && arguments.items[1]->text != "latin-1"))
    pickle_damaged(file_, "encodes what is no text");
  const std::string& text = arguments.items[0]->text;
  count_bytes(text.size());
  Value* value = tree_.make(Value::Kind::text);
  value->text.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x80) {
      value->text += static_cast<char>(c);
    } else {
      const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
      if ((c != 0xc2 && c != 0xc3) || (next & 0xc0) != 0x80)
        pickle_damaged(file_, "has bytes that are no latin1 text");
      value->text += static_cast<char>((c & 3) << 6 | (next & 0x3f));
      ++i;
    }
  }
  return value;
}

// Each content stands once in a pickle; one that is used again and again makes a small file a large memory.
void PickleObjects::count_bytes(std::uint64_t bytes) {
  copied_ += bytes;
  if (copied_ > most_copied_) pickle_damaged(file_, "uses the bytes of one array again and again");
}

const Value* PickleObjects::scalar(const Value& arguments) {
  if (arguments.items.size() < 2 || !is_type(*arguments.items[0]))
    pickle_damaged(file_, "has a numpy number without a type");
  const Value& content = *arguments.items[1];
  Array array;
  if (content.kind != Value::Kind::text ||
      !numpy_array(file_, arguments.items[0]->text.substr(kType.size()), {}, false, content.text, array))
    return opaque("numpy scalar");
  Value* value = tree_.make(Value::Kind::number);
  value->number = array.read().at(0);
  return value;
}

const Value* PickleObjects::reduce(const Value& callee, const Value& arguments) {
  const std::string& name = callee.text;
  if (name == "tensor") return rebuild_tensor(arguments);
  if (name == "parameter" && !arguments.items.empty() && arguments.items[0]->kind == Value::Kind::array)
    return arguments.items[0];  // (data, requires_grad, hooks)
  if (name == "bytes of text") return bytes_of_text(arguments);
  if (name == "numpy.scalar") return scalar(arguments);
  if (name == "numpy.reconstruct") {
    if (arguments.items.empty() || arguments.items[0]->text != "numpy.ndarray")
      pickle_refused(file_, "has a numpy array of a class of its own");
    return opaque(kEmptyArray);
  }
  if (name == "numpy.dtype") {
    if (arguments.items.empty() || arguments.items[0]->kind != Value::Kind::text)
      pickle_damaged(file_, "has a numpy type without a name");
    return opaque(kType + arguments.items[0]->text.substr(0, 40));
  }
  if (name == "dictionary") {
    Value* dictionary = tree_.make(Value::Kind::dictionary);
    for (const Value* pairs : arguments.items)
      for (const Value* pair : pairs->items)
        if (pair->items.size() == 2) dictionary->members.emplace_back(pair->items[0]->text, pair->items[1]);
    return dictionary;
  }
  if (name == "size") return arguments.items.size() == 1 ? arguments.items[0] : &arguments;
  if (name == "bytes" && arguments.items.empty() && arguments.numbers.empty())
    return tree_.make(Value::Kind::text);                      // b""
  if (name == "device") return tree_.make(Value::Kind::null);  // says nothing about numbers
  pickle_damaged(file_, "calls what is no function");
}

void PickleObjects::build(Value& object, const Value* state) {
  if (object.kind != Value::Kind::opaque) return;
  if (object.text == kEmptyArray) {
    if (!state || state->kind != Value::Kind::list || state->items.size() != 5)
      pickle_damaged(file_, "has a numpy array without its content");
    build_array(object, *state);
  } else if (is_type(object) && state && state->items.size() >= 2) {
    // (version, byte order, ...): '<' little, '|' none, '=' the writer's.
    const std::string& order = state->items[1]->text;
    if (order == ">")
      pickle_refused(file_,
                     "has a numpy array in big-endian order ('" + object.text.substr(kType.size()) + "')");
  }
}

// (version, shape, dtype, Fortran order, content).
void PickleObjects::build_array(Value& object, const Value& state) {
  if (!is_type(*state.items[2])) pickle_damaged(file_, "has a numpy array without a type");
  const std::vector<std::int64_t> shape = integers(state.items[1]);
  const std::string type = state.items[2]->text.substr(kType.size());
  const Value& content = *state.items[4];
  // Objects are values of the pickle itself: a list.
  if (type.rfind("O", 0) == 0 && content.kind == Value::Kind::list && shape.size() == 1) {
    object.kind = Value::Kind::list, object.text.clear();
    object.items = content.items, object.numbers = content.numbers;
    return;
  }
  if (content.kind != Value::Kind::text) {
    object.text = "numpy array of " + type;
    return;
  }
  count_bytes(content.text.size());
  if (numpy_array(file_, type, shape, number_at(state, 3) > 0, content.text, object.array))
    object.kind = Value::Kind::array, object.text.clear();
  else
    object.text = "numpy array of " + type;  // texts, dates, records: no numbers that are asked for
}

}  // namespace meshparity::dumps
